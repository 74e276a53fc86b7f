//! `ScheduleService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api,
    call::{answer, open},
    convert::{page, schedule as convert},
};
use crate::{
    domain::schedule::ticks::zone_version,
    ids::schedule_name,
    pb::{self, schedule_service_server::ScheduleService},
};

#[async_trait]
impl ScheduleService for Api {
    async fn create_schedule(
        &self,
        request: Request<pb::CreateScheduleRequest>,
    ) -> Result<Response<pb::CreateScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id, settings) = convert::create(call.message)?;
            let schedule = self.app.create_schedule(&call.caller, &project, &id, settings).await?;
            Ok(pb::CreateScheduleResponse { schedule: Some(convert::schedule(&schedule, true)) })
        })
        .await
    }

    async fn get_schedule(
        &self,
        request: Request<pb::GetScheduleRequest>,
    ) -> Result<Response<pb::GetScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id) = convert::get(call.message)?;
            let schedule = self.app.get_schedule(&project, &id).await?;
            self.app.notes().read(&call.caller, &schedule_name(&project, &id));
            let schedule = Some(convert::schedule(&schedule, true));
            Ok(pb::GetScheduleResponse { schedule, time_zone_version: zone_version().to_owned() })
        })
        .await
    }

    async fn list_schedules(
        &self,
        request: Request<pb::ListSchedulesRequest>,
    ) -> Result<Response<pb::ListSchedulesResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, limit, page_token) = convert::list(call.message)?;
            let tokens = self.page_tokens.of("ListSchedules", &[project.as_str()]);
            let (found, mut next) = self.app.list_schedules(&project, tokens.read(&page_token)?, limit).await?;
            let mut schedules: Vec<_> = found.iter().map(|schedule| convert::schedule(schedule, false)).collect();
            let fitting = page::fitting(&schedules);
            if fitting < schedules.len() {
                schedules.truncate(fitting);
                next = found.get(fitting - 1).map(|schedule| schedule.id.clone());
            }
            Ok(pb::ListSchedulesResponse { schedules, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }

    async fn update_schedule(
        &self,
        request: Request<pb::UpdateScheduleRequest>,
    ) -> Result<Response<pb::UpdateScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Update { project, id, patch, etag } = convert::update(call.message)?;
            let schedule = self.app.update_schedule(&call.caller, &project, &id, patch, etag).await?;
            Ok(pb::UpdateScheduleResponse { schedule: Some(convert::schedule(&schedule, true)) })
        })
        .await
    }

    async fn delete_schedule(
        &self,
        request: Request<pb::DeleteScheduleRequest>,
    ) -> Result<Response<pb::DeleteScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id, etag) = convert::delete(call.message)?;
            self.app.delete_schedule(&call.caller, &project, &id, etag).await?;
            Ok(pb::DeleteScheduleResponse {})
        })
        .await
    }

    async fn pause_schedule(
        &self,
        request: Request<pb::PauseScheduleRequest>,
    ) -> Result<Response<pb::PauseScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id, note) = convert::pause(call.message)?;
            let schedule = self.app.pause_schedule(&call.caller, &project, &id, note).await?;
            Ok(pb::PauseScheduleResponse { schedule: Some(convert::schedule(&schedule, true)) })
        })
        .await
    }

    async fn resume_schedule(
        &self,
        request: Request<pb::ResumeScheduleRequest>,
    ) -> Result<Response<pb::ResumeScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id) = convert::resume(call.message)?;
            let schedule = self.app.resume_schedule(&call.caller, &project, &id).await?;
            Ok(pb::ResumeScheduleResponse { schedule: Some(convert::schedule(&schedule, true)) })
        })
        .await
    }

    async fn preview_schedule(
        &self,
        request: Request<pb::PreviewScheduleRequest>,
    ) -> Result<Response<pb::PreviewScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let convert::Preview { project, what, after, count } = convert::preview(call.message)?;
            let runs = self.app.preview_schedule(&project, what, after, count).await?;
            let runs = runs.into_iter().map(convert::planned).collect();
            Ok(pb::PreviewScheduleResponse { runs, time_zone_version: zone_version().to_owned() })
        })
        .await
    }

    async fn run_schedule(
        &self,
        request: Request<pb::RunScheduleRequest>,
    ) -> Result<Response<pb::RunScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id) = convert::run(call.message)?;
            let occurrence = self.app.run_schedule(&call.caller, &project, &id).await?;
            Ok(pb::RunScheduleResponse { occurrence: Some(convert::occurrence(&project, &id, &occurrence)) })
        })
        .await
    }

    async fn backfill_schedule(
        &self,
        request: Request<pb::BackfillScheduleRequest>,
    ) -> Result<Response<pb::BackfillScheduleResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id, backfill) = convert::backfill(call.message)?;
            let backfilled = self.app.backfill_schedule(&call.caller, &project, &id, backfill).await?;
            Ok(convert::backfilled(backfilled))
        })
        .await
    }

    async fn list_occurrences(
        &self,
        request: Request<pb::ListOccurrencesRequest>,
    ) -> Result<Response<pb::ListOccurrencesResponse>, Status> {
        let call = open(request)?;
        answer(&call.caller, async {
            let (project, id, limit, page_token) = convert::list_occurrences(call.message)?;
            let tokens = self.page_tokens.of("ListOccurrences", &[&schedule_name(&project, &id)]);
            let (found, next) = self.app.list_occurrences(&project, &id, tokens.read(&page_token)?, limit).await?;
            let occurrences = found.iter().map(|found| convert::occurrence(&project, &id, found)).collect();
            Ok(pb::ListOccurrencesResponse { occurrences, next_page_token: tokens.next(next.as_ref()) })
        })
        .await
    }
}
