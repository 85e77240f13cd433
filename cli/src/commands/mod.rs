//! One module per noun.

mod accept_loss;
mod cursor;
mod dead_letter;
mod dead_letter_request;
mod inbox;
mod message;
mod rebuild;
mod saga;
mod saga_request;
mod schema;
mod source;
mod source_check;
mod source_epoch;
mod status;
mod topic;
mod trace;
mod trace_tree;
mod verify;

use anyhow::Result;
use onceward_saga::Verb;

use self::source_epoch::Wish;
use crate::World;
use crate::args::{
    Cli, Command, ConsumerCommand, DeadLetterCommand, InboxCommand, MessageCommand, SagaCommand,
    SchemaCommand, SourceCommand, TopicCommand,
};
use crate::locate::Place;
use crate::outcome::Outcome;

/// Runs the command.
pub(crate) async fn dispatch(cli: Cli, world: &World<'_>) -> Result<Outcome> {
    let place = || Place::find(&cli.place, &cli.kafka, &world.folder);
    match cli.command {
        Command::Status => status::status(&place()?, world).await,
        Command::Message(MessageCommand::List(args)) => message::list(&place()?, &args).await,
        Command::Message(MessageCommand::Show { id }) => message::show(&place()?, &id).await,
        Command::Message(MessageCommand::Trace { id }) => trace::trace(&place()?, &id).await,
        Command::Inbox(InboxCommand::List(args)) => inbox::list(&place()?, &args).await,
        Command::Consumer(ConsumerCommand::Rebuild(wish)) => {
            rebuild::rebuild(&place()?, &wish, cli.place.json).await
        }
        Command::Consumer(ConsumerCommand::AcceptLoss(wish)) => {
            accept_loss::accept(&place()?, world, &wish).await
        }
        Command::DeadLetter(command) => dead_letter(command, &place()?, world).await,
        Command::Saga(command) => saga(command, &place()?, world).await,
        Command::Source(SourceCommand::List) => source::list(&place()?).await,
        Command::Source(SourceCommand::Check { source }) => {
            source_check::check(&place()?, source.as_deref()).await
        }
        Command::Source(SourceCommand::Reset { source, from, yes }) => {
            source_epoch::new_epoch(&place()?, &source, Wish::Reset(from), yes).await
        }
        Command::Source(SourceCommand::Adopt { source, yes }) => {
            source_epoch::new_epoch(&place()?, &source, Wish::Adopt, yes).await
        }
        Command::Topic(command) => {
            // Needs no database, so none need be found.
            let kafka = match cli.kafka.bootstrap_servers.is_empty() {
                true => place()?.kafka.unwrap_or_default(),
                false => cli.kafka.clone(),
            };
            match command {
                TopicCommand::Plan(wish) => topic::plan(kafka, &wish).await,
                TopicCommand::Apply(wish) => topic::apply(kafka, &wish).await,
            }
        }
        // These may name their database themselves.
        Command::Schema(SchemaCommand::Migrate { url, source }) => {
            let url = match url {
                Some(url) => url,
                None => place()?.source(&source)?.url.clone(),
            };
            schema::migrate(&url, &source).await
        }
        Command::Schema(SchemaCommand::Check { url, source }) => {
            let url = match url {
                Some(url) => url,
                None => place()?.source(&source.unwrap_or_default())?.url.clone(),
            };
            schema::check(&url).await
        }
        Command::Verify(args) => verify::verify(&place()?, &args).await,
    }
}

async fn dead_letter(
    command: DeadLetterCommand,
    place: &Place,
    world: &World<'_>,
) -> Result<Outcome> {
    match command {
        DeadLetterCommand::List { source, all } => {
            dead_letter::list(place, source.as_deref(), all).await
        }
        DeadLetterCommand::Show { letter, consumer } => {
            dead_letter::show(place, &letter, consumer.as_deref()).await
        }
        DeadLetterCommand::Replay(request) => {
            dead_letter_request::replay(place, world, &request).await
        }
        DeadLetterCommand::Discard {
            request,
            yes_break_order,
        } => dead_letter_request::discard(place, world, &request, yes_break_order).await,
        DeadLetterCommand::Requests { open } => dead_letter_request::list(place, open).await,
    }
}

async fn saga(command: SagaCommand, place: &Place, world: &World<'_>) -> Result<Outcome> {
    let (verb, wish, step) = match &command {
        SagaCommand::List { status, limit } => {
            return saga::list(place, status.as_deref(), *limit).await;
        }
        SagaCommand::Show { id } => return saga::show(place, id).await,
        SagaCommand::Retry(about) => (Verb::Retry, &about.wish, about.step.as_deref()),
        SagaCommand::Skip(about) => (Verb::Skip, &about.wish, about.step.as_deref()),
        SagaCommand::ForceComplete(wish) => (Verb::ForceComplete, wish, None),
        SagaCommand::ForceCompensate(wish) => (Verb::ForceCompensate, wish, None),
    };
    saga_request::ask(place, world, verb, wish, step).await
}
