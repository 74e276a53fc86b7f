//! Changes of tasks, one line each, for people who watch.

use super::{first_line, state_of, strip};
use crate::{
    cli::{
        names,
        output::{Color, Painter, Styled},
    },
    pb::{
        TaskEvent,
        task::State,
        task_event::{Kind, Type},
    },
};

/// Widths that fit nearly every word; longer ones push the rest to the right rather than being cut.
const KIND_WIDTH: usize = 16;
const STATE_WIDTH: usize = 10;
const TYPE_WIDTH: usize = 20;
/// What happened, in a line.
const MAX_NOTE_CHARS: usize = 80;

/// Prints events as aligned lines.
pub struct EventLine {
    painter: Painter,
}

impl EventLine {
    /// Lines with or without colours.
    pub fn new(painter: Painter) -> Self {
        Self { painter }
    }

    /// The line of an event; none for those that say nothing to people.
    pub fn render(&self, event: &TaskEvent) -> Option<String> {
        if event.r#type() == Type::Bookmark {
            return None;
        }
        if event.r#type() == Type::Synced {
            return Some(self.painter.dim("-- that is how things stand; changes follow --"));
        }
        let task = event.task.as_ref()?;
        let clock = event.event_time.or(task.update_time).map(|time| time.to_string()).unwrap_or_default();
        // The time of day is enough beside a live stream.
        let clock = clock.get(11..19).unwrap_or_default();
        let state = state_of(task);
        let kind = match event.r#type() {
            Type::Initial => Styled::new("INITIAL", Color::Dim),
            Type::Deleted if event.kind() != Kind::Deleted => Styled::new("LEFT_FILTER", Color::Dim),
            _ => Styled::new(strip(event.kind().as_str_name(), "KIND_"), state.color),
        };
        let line = format!(
            "{clock}  {}  {}  {:TYPE_WIDTH$}  {}  {}",
            self.padded(&kind, KIND_WIDTH),
            self.padded(&state, STATE_WIDTH),
            task.r#type,
            names::id(&task.name),
            note(event),
        );
        Some(line.trim_end().to_owned())
    }

    /// Colour codes have no width on the screen, so the text is padded before it is painted.
    fn padded(&self, styled: &Styled, width: usize) -> String {
        self.painter.paint(&Styled::new(format!("{:width$}", styled.text), styled.color))
    }
}

/// What one wants to know about the change beside its kind.
fn note(event: &TaskEvent) -> String {
    let Some(task) = event.task.as_ref() else { return String::new() };
    let error = || task.error.as_ref().map(|error| format!("{}: {}", error.r#type, error.message)).unwrap_or_default();
    let text = match event.kind() {
        Kind::Leased => format!("by {}", names::id(&task.worker)),
        Kind::Progressed => {
            task.progress.as_ref().map(|p| format!("{:.0} % {}", p.percent, p.message)).unwrap_or_default()
        }
        Kind::Failed | Kind::TimedOut | Kind::Expired | Kind::LeaseExpired => match task.state() {
            State::Retrying => format!("attempt {}, will retry: {}", task.attempt_count, error()),
            _ => error(),
        },
        Kind::CancelRequested | Kind::Cancelled => task.cancel_reason.clone(),
        Kind::Submitted => format!("queue {}", task.queue),
        _ => String::new(),
    };
    first_line(&text, MAX_NOTE_CHARS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{Task, TaskError};

    fn event(r#type: Type, kind: Kind, task: Task) -> TaskEvent {
        TaskEvent { r#type: r#type as i32, kind: kind as i32, task: Some(task), ..Default::default() }
    }

    #[test]
    fn a_failure_says_why() {
        let task = Task {
            name: "projects/default/tasks/x".into(),
            r#type: "email.send".into(),
            state: State::Failed as i32,
            error: Some(TaskError {
                r#type: "Smtp".into(),
                message: "refused\nby peer".into(),
                details: String::new(),
            }),
            update_time: Some("2026-11-20T08:09:10Z".parse().unwrap()),
            ..Default::default()
        };
        let line = EventLine::new(Painter::plain()).render(&event(Type::Modified, Kind::Failed, task)).unwrap();
        assert_eq!(line, "08:09:10  FAILED            FAILED      email.send            x  Smtp: refused");
    }

    #[test]
    fn bookmarks_are_not_for_people() {
        let line = EventLine::new(Painter::plain());
        assert_eq!(line.render(&event(Type::Bookmark, Kind::Unspecified, Task::default())), None);
        assert!(line.render(&event(Type::Synced, Kind::Unspecified, Task::default())).is_some());
    }
}
