//! `DeadLetterService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::{self, dead_letter::BulkRetryStart},
};
use crate::{
    domain::dead_letter::DeadLetter,
    pb::{self, dead_letter_service_server::DeadLetterService},
};

#[async_trait]
impl DeadLetterService for Api {
    async fn get_dead_letter(
        &self,
        request: Request<pb::GetDeadLetterRequest>,
    ) -> Result<Response<pb::GetDeadLetterResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, task) = convert::dead_letter::get(call.message)?;
            let letter = self.app.get_dead_letter(&project, task).await?;
            Ok(pb::GetDeadLetterResponse { dead_letter: Some(convert::dead_letter::with_replays(letter)) })
        })
        .await
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let list = convert::dead_letter::list(call.message)?;
            let tokens = self.page_tokens.of("ListDeadLetters", &[list.project.as_str(), &list.filter_text]);
            let after = tokens.read(&list.page_token)?;
            let (letters, mut next) =
                self.app.list_dead_letters(&list.project, &list.filter, after, list.limit).await?;
            let places: Vec<_> = letters.iter().map(DeadLetter::position).collect();
            let mut dead_letters: Vec<_> = letters.into_iter().map(convert::dead_letter::dead_letter).collect();
            let fitting = convert::page::fitting(&dead_letters);
            if fitting < dead_letters.len() {
                dead_letters.truncate(fitting);
                next = fitting.checked_sub(1).and_then(|last| places.get(last)).copied();
            }
            Ok(pb::ListDeadLettersResponse { dead_letters, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn analyze_dead_letters(
        &self,
        request: Request<pb::AnalyzeDeadLettersRequest>,
    ) -> Result<Response<pb::AnalyzeDeadLettersResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, filter, max_groups) = convert::dead_letter::analyze(call.message)?;
            let analysis = self.app.analyze_dead_letters(&project, &filter, max_groups).await?;
            Ok(convert::dead_letter::analysis(analysis))
        })
        .await
    }

    async fn retry_dead_letter(
        &self,
        request: Request<pb::RetryDeadLetterRequest>,
    ) -> Result<Response<pb::RetryDeadLetterResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, task, wish) = convert::dead_letter::retry(call.message)?;
            let (task, letter) = self.app.retry_dead_letter(&call.caller, &project, task, wish).await?;
            Ok(pb::RetryDeadLetterResponse {
                task: Some(convert::task::task(&task, false)),
                dead_letter: Some(convert::dead_letter::with_replays(letter)),
            })
        })
        .await
    }

    async fn bulk_retry_dead_letters(
        &self,
        request: Request<pb::BulkRetryDeadLettersRequest>,
    ) -> Result<Response<pb::BulkRetryDeadLettersResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let BulkRetryStart { project, which, reason, force, retry } =
                convert::dead_letter::bulk_retry(call.message)?;
            let preview = self.app.bulk_retry_dead_letters(&call.caller, &project, which, reason, retry, force).await?;
            Ok(convert::dead_letter::preview(&project, preview))
        })
        .await
    }

    async fn mark_dead_letter_processed(
        &self,
        request: Request<pb::MarkDeadLetterProcessedRequest>,
    ) -> Result<Response<pb::MarkDeadLetterProcessedResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, task, reason, etag) = convert::dead_letter::mark_processed(call.message)?;
            let letter = self.app.mark_dead_letter_processed(&call.caller, &project, task, reason, etag).await?;
            Ok(pb::MarkDeadLetterProcessedResponse { dead_letter: Some(convert::dead_letter::with_replays(letter)) })
        })
        .await
    }

    async fn reopen_dead_letter(
        &self,
        request: Request<pb::ReopenDeadLetterRequest>,
    ) -> Result<Response<pb::ReopenDeadLetterResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, task, etag) = convert::dead_letter::reopen(call.message)?;
            let letter = self.app.reopen_dead_letter(&call.caller, &project, task, etag).await?;
            Ok(pb::ReopenDeadLetterResponse { dead_letter: Some(convert::dead_letter::with_replays(letter)) })
        })
        .await
    }
}
