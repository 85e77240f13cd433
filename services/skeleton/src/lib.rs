//! What every service of the shop shares: configuration, telemetry, health, errors, request
//! bodies, the idempotent write and the run loop.
//!
//! A service is a [`Definition`] (what it is called and which tables it needs) and a function that
//! makes a [`Service`] of an [`App`]: routes, message handlers, background tasks. No Kafka here:
//! the binary brings the consumer loop as one more [`Background`] task.
#![deny(missing_docs)]

mod answer;
mod app;
mod body;
mod chance;
mod config;
mod context;
mod dead_letters;
mod document;
mod error;
mod health;
mod idempotent;
mod money;
mod operator;
mod page;
mod path;
mod routes;
mod run;
mod service;
mod shutdown;
mod telemetry;
mod time;

pub use answer::Answer;
pub use app::App;
pub use body::{Body, Fields, text_fault};
pub use chance::Chance;
pub use config::{DatabaseOptions, ServerOptions};
pub use context::RequestContext;
pub use error::ApiError;
pub use health::{Readiness, consumer_obstacle};
pub use idempotent::{IDEMPOTENCY_KEY, IdempotencyKey, RequestIdentity, write, write_once};
pub use money::Money;
pub use onceward_http::{FieldError, Limits, Problem};
pub use operator::{NoOperator, Operator, OperatorAccess, OperatorOptions, OperatorToken};
pub use page::{Page, PageQuery};
pub use path::{PathId, PathText};
pub use routes::Routes;
pub use run::{assemble, migrate, run};
pub use service::{Background, Definition, Service};
pub use shutdown::first_signal;
pub use telemetry::{TelemetryOptions, init as init_telemetry};
pub use time::iso_time;
