//! `tasktower list`.

use std::process::ExitCode;

use clap::Args;

use crate::{
    cli::{Context, help, output::Format, pages::MAX_PAGE},
    pb::{ListTasksRequest, Task, TaskView},
};

/// Which tasks.
#[derive(Args, Debug)]
#[command(before_help = help::LIST)]
pub struct ListArgs {
    /// Only tasks this filter matches
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// `create_time` or `create_time desc` (the default)
    #[arg(long, value_name = "ORDER")]
    order_by: Option<String>,
    /// Tasks asked for in one call
    #[arg(long, default_value_t = MAX_PAGE, value_parser = clap::value_parser!(i32).range(1..=500), value_name = "N")]
    page_size: i32,
    /// Stop after this many tasks; 0 means all
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// With input and result
    #[arg(long)]
    full: bool,
}

/// Lists page by page. Line formats print each page as it comes, the others when all is there.
pub async fn run(context: &Context, args: ListArgs) -> anyhow::Result<ExitCode> {
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let by_line = matches!(context.output.format(), Format::Jsonl | Format::Name);
    let mut tasks: Vec<Task> = Vec::new();
    let mut printed = 0;
    let mut page_token = String::new();
    let more = loop {
        let missing = limit - printed - tasks.len();
        let request = ListTasksRequest {
            parent: context.project.clone(),
            page_size: args.page_size.min(i32::try_from(missing).unwrap_or(i32::MAX)),
            page_token,
            filter: args.filter.clone().unwrap_or_default(),
            order_by: args.order_by.clone().unwrap_or_default(),
            view: if args.full { TaskView::Full as i32 } else { TaskView::Basic as i32 },
        };
        let page = context.api.tasks().list_tasks(context.api.call(request)).await?.into_inner();
        tasks.extend(page.tasks);
        if by_line {
            printed += tasks.len();
            context.output.list(&tasks)?;
            tasks.clear();
        }
        page_token = page.next_page_token;
        if page_token.is_empty() || printed + tasks.len() >= limit {
            break !page_token.is_empty();
        }
    };
    if !by_line {
        context.output.list(&tasks)?;
    }
    if more {
        eprintln!("{}", context.talk.dim("-- there are more; --limit 0 shows all --"));
    } else if printed + tasks.len() == 0 {
        eprintln!("{}", context.talk.dim("-- no task matches --"));
    }
    Ok(ExitCode::SUCCESS)
}
