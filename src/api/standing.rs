//! Whether the caller of an open stream still may: looked at again while the stream is open, so that who is no longer a
//! member does not go on because it called in time.
//!
//! Memberships are remembered for a few seconds (`app/authority.rs`), so a stream of a caller who lost its right ends
//! within [`PERIOD`] and those. While the database does not answer nothing is known, and nothing is ended.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::{
    Api,
    access::{self, Needs, Place, Scoped},
    call::{Answers, Call},
    layers::note,
    status::to_status,
};
use crate::{
    app::App,
    context::Caller,
    domain::authority::{Authority, Share},
    error::Error,
    ids::{ProjectId, project_name},
};

/// Between two looks: with the time that memberships are remembered, well within the minute that is promised.
const PERIOD: Duration = Duration::from_secs(30);

/// What a stream was begun with.
pub struct Standing {
    app: App,
    caller: Caller,
    needs: Needs,
    resource: String,
    share: Share,
}

impl Api {
    /// The standing of a call that was let in.
    pub(super) fn standing<T: Scoped>(&self, call: &Call<T>, share: &Share) -> Standing {
        Standing {
            app: self.app.clone(),
            caller: call.caller.clone(),
            needs: T::NEEDS,
            resource: call.message.resource().to_owned(),
            share: share.clone(),
        }
    }
}

impl Standing {
    /// Of a stream that said later which project it is about.
    pub fn in_project(app: App, caller: Caller, needs: Needs, project: &ProjectId) -> Self {
        let needs = Needs { place: Place::Project, ..needs };
        Self { app, caller, needs, resource: project_name(project), share: Share::All }
    }

    /// Waits until the caller may no longer do what it began, and says why the stream ends.
    pub async fn lost(self) -> Error {
        loop {
            tokio::time::sleep(PERIOD).await;
            if let Some(error) = self.look().await {
                return error;
            }
        }
    }

    async fn look(&self) -> Option<Error> {
        let Authority::Granted(grants) = &self.caller.authority else { return None };
        let authority = self.app.authority(&self.caller.principal, grants.limit).await.ok()?;
        match access::admit_to(&self.caller, &authority, &self.needs, &self.resource) {
            Ok(share) if share == self.share || share == Share::All => None,
            // It still may see a part: the client comes back and is shown that.
            Ok(_) => Some(Error::Reconnect),
            Err(error) => Some(error),
        }
    }

    /// The answers for as long as the caller may have them.
    pub fn hold<T: Send + 'static>(self, answers: Answers<T>) -> Answers<T> {
        let (notes, caller) = (self.app.notes().clone(), self.caller.clone());
        let lost = Box::pin(async move {
            let status = to_status(&self.lost().await, &caller.request_id);
            note::ended(&notes, &caller, &status);
            status
        });
        Box::pin(stream::unfold(Some((answers, lost)), |state| async move {
            let (mut answers, mut lost) = state?;
            tokio::select! {
                biased;
                status = &mut lost => Some((Err(status), None)),
                answer = answers.next() => answer.map(|answer| (answer, Some((answers, lost)))),
            }
        }))
    }
}
