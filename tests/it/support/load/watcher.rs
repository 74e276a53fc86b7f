//! Follows the project from the token of its last message, through whatever breaks its streams.

use std::sync::Arc;

use tasktower::pb::{TaskEvent, WatchTasksRequest, WatchTasksResponse, task_event};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        client::Replicas,
        history::{History, Seen},
        wait::pause,
    },
    PROJECT, TRY_AGAIN, task_id,
};

/// Follows the project from the token of its last message, through whatever breaks its streams.
pub(super) struct Watcher {
    pub(super) replicas: Replicas,
    pub(super) history: Arc<History>,
    pub(super) name: String,
    pub(super) cut_within: Option<usize>,
    pub(super) stop: CancellationToken,
}

impl Watcher {
    pub(super) async fn run(self) {
        let mut token = String::new();
        while !self.stop.is_cancelled() {
            tokio::select! {
                () = self.follow(&mut token) => self.replicas.turn(),
                () = self.stop.cancelled() => {}
            }
            pause("the server is back in a moment", TRY_AGAIN).await;
        }
    }

    /// One stream, to its end.
    async fn follow(&self, token: &mut String) {
        let request = WatchTasksRequest {
            parent: PROJECT.to_owned(),
            resume_token: token.clone(),
            ..WatchTasksRequest::default()
        };
        let mut stream = match self.replicas.current().tasks().watch_tasks(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => {
                self.history.broke("watch", status);
                return;
            }
        };
        let cut_after = self.cut_within.map(|most| rand::random_range(1..=most));
        for message_number in 1.. {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return self.history.surprise(format!("{}: the stream ended without a word", self.name)),
                Err(status) => {
                    self.history.broke("watch", status);
                    return;
                }
            };
            if message.resume_token.is_empty() {
                self.history.surprise(format!("{}: a message without a token", self.name));
            }
            self.history.watch(&self.name, |watched| {
                if watched.opened == 0 {
                    watched.first_token = message.resume_token.clone();
                }
                watched.opened += usize::from(message_number == 1);
                watched.seen.extend(read_events(&message));
            });
            for task in message.events.iter().filter_map(|event| event.task.as_ref()) {
                if task.finish_time.is_some() {
                    self.history.handled(task_id(&task.name));
                }
            }
            token.clone_from(&message.resume_token);
            if Some(message_number) == cut_after {
                return;
            }
        }
    }
}

/// The events of a message that are about tasks.
pub fn read_events(message: &WatchTasksResponse) -> Vec<Seen> {
    let is_task = |event: &&TaskEvent| event.r#type() != task_event::Type::Bookmark;
    message.events.iter().filter(is_task).map(read_event).collect()
}

/// An event as histories keep it.
pub fn read_event(event: &TaskEvent) -> Seen {
    let task = event.task.as_ref();
    Seen {
        revision: event.revision,
        task: task.map(|task| task_id(&task.name)).unwrap_or_default(),
        kind: event.kind,
        version: task.map(|task| task.version).unwrap_or_default(),
    }
}
