//! The shape of a service.

use std::future::Future;
use std::pin::Pin;

use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward::{Backend, ConsumerName, InvalidName, SourceName};
use tokio_util::sync::CancellationToken;

use crate::Routes;

/// What a service is called and which tables it needs: enough to migrate it without running it.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Source name: `inventory`.
    pub name: &'static str,
    /// What it is for, in Markdown: the first words of its API document.
    pub about: &'static str,
    /// Consumer name, which is its Kafka group: `inventory-service-group`.
    pub consumer: &'static str,
    /// Port it listens on unless told otherwise.
    pub port: u16,
    /// Migrations after the library's, in order: the saga library's if it needs them, its own.
    pub lines: &'static [Line],
}

impl Definition {
    /// The name as a source.
    pub fn source(&self) -> Result<SourceName, InvalidName> {
        SourceName::new(self.name)
    }
    /// The name it consumes by.
    pub fn consumer(&self) -> Result<ConsumerName, InvalidName> {
        ConsumerName::new(self.consumer)
    }
}

/// A task that runs beside the HTTP server until its token is cancelled.
pub struct Background {
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce(CancellationToken) -> TaskFuture + Send>,
}

/// What a background task is.
pub(crate) type TaskFuture = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

impl Background {
    /// Names a task. It must return soon after the token is cancelled; returning earlier, or an
    /// error, stops the whole service.
    pub fn new<F>(
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        Self {
            name,
            run: Box::new(move |stop| Box::pin(run(stop))),
        }
    }

    /// Names a task that meets no error it can't outlive.
    pub fn unfailing<F>(
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::new(name, async move |stop| {
            run(stop).await;
            Ok(())
        })
    }
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Background").field(&self.name).finish()
    }
}

/// A service ready to run: routes, messages in, tasks.
#[derive(Debug)]
pub struct Service<B: Backend> {
    /// Its routes. `/dead-letters`, `/healthz`, `/readyz`, `/metrics`, `/openapi.json` and `/docs` are added.
    pub routes: Routes<B>,
    /// A handler for every message type it consumes.
    pub handlers: Handlers<B>,
    /// Tasks besides HTTP server and consumer: timers, schedules.
    pub background: Vec<Background>,
}

impl<B: Backend> Service<B> {
    /// A service with these routes that consumes nothing.
    pub fn new(routes: Routes<B>) -> Self {
        Self {
            routes,
            handlers: Handlers::default(),
            background: Vec::new(),
        }
    }

    /// Consumes the messages that these handlers know.
    #[must_use]
    pub fn consuming(mut self, handlers: Handlers<B>) -> Self {
        self.handlers = handlers;
        self
    }

    /// Adds a background task.
    #[must_use]
    pub fn with_background(mut self, task: Background) -> Self {
        self.background.push(task);
        self
    }
}
