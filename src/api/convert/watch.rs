//! Watches: what to follow, and the events.

use super::{
    fields::{Fields, Path},
    name,
    scalar::{timestamp, without_nul},
    task,
};
use crate::{
    app::watch::{WatchBatch, WatchChange, WatchItem, WatchRequest},
    domain::{
        authority::Share,
        event::{Event, Subject},
    },
    error::Result,
    ids::ProjectId,
    pb,
};

/// What to follow, in which project.
pub fn request(request: pb::WatchTasksRequest) -> Result<(ProjectId, WatchRequest)> {
    let mut fields = Fields::new();
    let pb::WatchTasksRequest { parent, filter, task, resume_token, initial_state } = request;
    let project = name::parent(&mut fields, &Path::Request.field("parent"), &parent);
    let at = Path::Request.field("task");
    if !task.is_empty() && !filter.is_empty() {
        fields.refuse(&at, "cannot be combined with filter");
    }
    let task = (!task.is_empty()).then(|| name::task_of(&mut fields, &at, &task, &project));
    let at = Path::Request.field("resume_token");
    if !resume_token.is_empty() && initial_state {
        fields.refuse(&at, "cannot be combined with initial_state");
    }
    let resume_token = (!resume_token.is_empty()).then(|| without_nul(&mut fields, &at, resume_token));
    fields.finish(())?;
    let request = WatchRequest { filter: task::filter(&filter)?, share: Share::All, task, resume_token, initial_state };
    Ok((project, request))
}

/// A batch for the wire. What is not about tasks is left out; a batch of nothing else still moves the token on.
pub fn response(batch: WatchBatch) -> pb::WatchTasksResponse {
    let WatchBatch { items, resume_token } = batch;
    let mut events: Vec<_> = items.iter().filter_map(event).collect();
    if events.is_empty() {
        events.push(of_type(pb::task_event::Type::Bookmark));
    }
    pb::WatchTasksResponse { events, resume_token }
}

fn event(item: &WatchItem) -> Option<pb::TaskEvent> {
    match item {
        WatchItem::Synced => Some(of_type(pb::task_event::Type::Synced)),
        WatchItem::Bookmark => Some(of_type(pb::task_event::Type::Bookmark)),
        WatchItem::Initial(found) => {
            Some(pb::TaskEvent { task: Some(task::task(found, false)), ..of_type(pb::task_event::Type::Initial) })
        }
        WatchItem::Change { change, event } => self::change(*change, event),
    }
}

fn change(kind: WatchChange, event: &Event) -> Option<pb::TaskEvent> {
    let Event { project: _, revision, time, actor, subject } = event;
    let Subject::Task { kind: what, before, after } = subject else { return None };
    let meaning = match kind {
        WatchChange::Added => pb::task_event::Type::Added,
        WatchChange::Modified => pb::task_event::Type::Modified,
        WatchChange::Deleted => pb::task_event::Type::Deleted,
    };
    Some(pb::TaskEvent {
        r#type: meaning as i32,
        // The numbers of the domain are those of the wire.
        kind: *what as i32,
        revision: *revision,
        event_time: Some(timestamp(*time)),
        task: Some(task::task(after, false)),
        previous_state: before.as_ref().map_or(0, |before| i32::from(before.state.number())),
        actor: actor.to_string(),
    })
}

fn of_type(r#type: pb::task_event::Type) -> pb::TaskEvent {
    pb::TaskEvent { r#type: r#type as i32, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_excludes_each_other_is_refused() {
        let id = uuid::Uuid::now_v7();
        let base = pb::WatchTasksRequest { task: format!("projects/default/tasks/{id}"), ..Default::default() };
        assert!(request(base.clone()).is_ok());
        assert!(request(pb::WatchTasksRequest { filter: "state = FAILED".into(), ..base.clone() }).is_err());
        assert!(request(pb::WatchTasksRequest { parent: "projects/other".into(), ..base.clone() }).is_err());
        let resume = pb::WatchTasksRequest { resume_token: "x".into(), initial_state: true, ..base };
        assert!(request(resume).is_err());
    }

    #[test]
    fn a_batch_without_events_is_a_bookmark() {
        let answer = response(WatchBatch { items: Vec::new(), resume_token: "t".into() });
        assert_eq!(answer.events[0].r#type(), pb::task_event::Type::Bookmark);
        assert_eq!(answer.resume_token, "t");
    }
}
