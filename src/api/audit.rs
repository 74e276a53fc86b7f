//! `AuditService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{Answers, answer, open, stream},
    convert::{audit as convert, page},
};
use crate::{
    domain::authority::Share,
    pb::{self, audit_service_server::AuditService},
};

#[async_trait]
impl AuditService for Api {
    async fn list_audit_entries(
        &self,
        request: Request<pb::ListAuditEntriesRequest>,
    ) -> Result<Response<pb::ListAuditEntriesResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::List { project, limit, page_token, filter: (text, filter) } = convert::list(call.message)?;
            let tokens = self.page_tokens.of("ListAuditEntries", &[project.as_str(), &text]);
            let before = tokens.read(&page_token)?;
            let (rows, mut next) = self.app.list_audit_entries(&project, &filter, before, limit).await?;
            let mut audit_entries: Vec<_> = rows.iter().map(convert::entry).collect();
            let fitting = page::fitting(&audit_entries);
            if fitting < audit_entries.len() {
                audit_entries.truncate(fitting);
                next = audit_entries.last().map(|entry| entry.revision);
            }
            Ok(pb::ListAuditEntriesResponse { audit_entries, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn get_audit_entry(
        &self,
        request: Request<pb::GetAuditEntryRequest>,
    ) -> Result<Response<pb::GetAuditEntryResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, revision) = convert::get(call.message)?;
            let row = self.app.get_audit_entry(&project, revision).await?;
            Ok(pb::GetAuditEntryResponse { audit_entry: Some(convert::entry(&row)) })
        })
        .await
    }

    type WatchAuditEntriesStream = Answers<pb::WatchAuditEntriesResponse>;

    async fn watch_audit_entries(
        &self,
        request: Request<pb::WatchAuditEntriesRequest>,
    ) -> Result<Response<Self::WatchAuditEntriesStream>, Status> {
        let call = open(request)?;
        let standing = self.standing(&call, &Share::All);
        answer(&call.caller, async {
            let (project, filter, resume_token) = convert::watch(call.message)?;
            let place = self.streams.enter(&call.caller)?;
            let batches = self.app.watch_audit_entries(&project, filter, resume_token).await?;
            Ok(standing.hold(place.hold(stream(call.caller.clone(), batches, convert::watched))))
        })
        .await
    }

    type ExportAuditStream = Answers<pb::ExportAuditResponse>;

    async fn export_audit(
        &self,
        request: Request<pb::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let call = open(request)?;
        let standing = self.standing(&call, &Share::All);
        answer(&call.caller, async {
            let (project, filter, after) = convert::export(call.message)?;
            let place = self.streams.enter(&call.caller)?;
            let pieces = self.app.export_audit(&project, filter, after).await?;
            Ok(standing.hold(place.hold(stream(call.caller.clone(), pieces, convert::piece))))
        })
        .await
    }

    type VerifyAuditStream = Answers<pb::VerifyAuditResponse>;

    async fn verify_audit(
        &self,
        request: Request<pb::VerifyAuditRequest>,
    ) -> Result<Response<Self::VerifyAuditStream>, Status> {
        let call = open(request)?;
        let standing = self.standing(&call, &Share::All);
        answer(&call.caller, async {
            let (project, token) = convert::verify(call.message)?;
            let head = token.map(|token| self.app.read_audit_head(&project, &token)).transpose()?;
            let place = self.streams.enter(&call.caller)?;
            let told = self.app.verify_audit(&project, head).await?;
            Ok(standing.hold(place.hold(stream(call.caller.clone(), told, convert::verification))))
        })
        .await
    }

    async fn get_audit_head(
        &self,
        request: Request<pb::GetAuditHeadRequest>,
    ) -> Result<Response<pb::GetAuditHeadResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let project = convert::head(call.message)?;
            let head = self.app.get_audit_head(&project).await?;
            Ok(pb::GetAuditHeadResponse { audit_head: Some(convert::signed_head(head)) })
        })
        .await
    }
}
