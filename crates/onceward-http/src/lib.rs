//! Serves an axum router so that no client can exhaust the process.
//!
//! Whatever a client may make large, slow or many has a bound, and going over it is answered at
//! once and by name, instead of being queued until memory or patience ends:
//!
//! | A client that | is answered |
//! |---|---|
//! | sends a head slowly, or keeps a silent connection | nothing: the connection is closed |
//! | sends a body slowly | 408 |
//! | asks for a path that is too long | 414 |
//! | sends too many or too large header fields | 431 |
//! | sends a body that is too large | 413 |
//! | comes while as many requests as allowed are under way | 503 with `Retry-After` |
//! | opens more connections than allowed | 503 with `Retry-After`, then the connection is closed |
//! | asks for what takes too long | 503 with `Retry-After` |
//! | does not take its answer | nothing more: the connection is closed |
//!
//! [`Guard`] is the part that sees requests, [`serve`] the part that sees connections; both take
//! the same [`Limits`]. `/healthz`, `/readyz` and `/metrics` have places of their own: a process
//! that is busy still says that it lives.
#![deny(missing_docs)]

mod guard;
mod limits;
pub mod metrics;
mod problem;
mod server;

pub use guard::Guard;
pub use limits::Limits;
pub use problem::{FieldError, PROBLEM_JSON, Problem};
pub use server::serve;
