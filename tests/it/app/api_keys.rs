use tasktower::{
    domain::{
        api_key::KeySettings,
        event::ResourceKind::{ApiKeyCreated, MemberSet},
        member::Scope,
        role::Role,
    },
    error::Error,
    ids::ProjectId,
};

use super::{caller, journal_of, start};
use crate::support::backend::for_each_backend;

#[tokio::test]
async fn a_key_gives_its_principal_a_role_by_the_rules_of_members() {
    for_each_backend(async |database| {
        let app = start(database).await;
        let key = async |principal: &str, scope: Scope, role: Role| {
            app.create_api_key(&caller(), principal.to_owned(), KeySettings::default(), Some((scope, role))).await
        };
        key("service:root", Scope::Everywhere, Role::Admin).await.unwrap();
        // The last administrator stays one, and with the role the key is refused.
        let refused = key("service:root", Scope::Everywhere, Role::Viewer).await;
        assert!(matches!(refused, Err(Error::StateConflict { .. })), "{refused:?}");
        assert_eq!(app.list_api_keys(None, None, 10).await.unwrap().0.len(), 1);
        // Another key of who has the role already changes no role.
        key("service:root", Scope::Everywhere, Role::Admin).await.unwrap();

        let shop = Scope::Project(ProjectId::new("default"));
        let (made, _) = key("service:shop", shop.clone(), Role::Submitter).await.unwrap();
        let roles = app.list_members(&shop, None, 10).await.unwrap().0;
        assert_eq!(roles.iter().map(|member| member.role).collect::<Vec<_>>(), [Role::Submitter]);
        // The role of one project is said in the journal of that one.
        let ada = || "user:ada".to_owned();
        let member = "projects/default/members/service:shop".to_owned();
        assert_eq!(journal_of(&app, "default").await, [(MemberSet, member, ada())]);
        let of_system = journal_of(&app, "system").await;
        assert_eq!(of_system.iter().map(|(kind, ..)| *kind).filter(|kind| *kind == MemberSet).count(), 1);
        assert_eq!(*of_system.last().unwrap(), (ApiKeyCreated, format!("apiKeys/{}", made.id), ada()));
    })
    .await;
}
