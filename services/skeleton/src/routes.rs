//! Routes and their descriptions, kept together.

use std::fmt;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use onceward::Backend;
use utoipa::Path as Described;
use utoipa::openapi::path::{HttpMethod, Paths};
use utoipa::openapi::{Components, RefOr, Schema};
// Hidden, but what `utoipa-axum` builds on as well; its own macro can't name a generic handler.
use utoipa::__dev::{SchemaReferences, Tags};

use crate::App;

/// The routes of a service, each with what `#[utoipa::path]` says about it, so that neither can be
/// forgotten: path and method are written once, in the attribute.
///
/// ```ignore
/// Routes::new()
///     .with(__path_list, list::<B>)
///     .with(__path_show, show::<B>)
/// ```
pub struct Routes<B: Backend> {
    router: Router<App<B>>,
    paths: Paths,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl<B: Backend> Default for Routes<B> {
    fn default() -> Self {
        Self {
            router: Router::new(),
            paths: Paths::new(),
            schemas: Vec::new(),
        }
    }
}

impl<B: Backend> fmt::Debug for Routes<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.paths.paths.keys()).finish()
    }
}

impl<B: Backend> Routes<B> {
    /// No routes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one. `_described` is the value `__path_NAME` that `#[utoipa::path]` makes beside the
    /// handler `NAME`.
    #[must_use]
    pub fn with<D, H, T>(mut self, _described: D, handler: H) -> Self
    where
        D: Described + SchemaReferences + for<'t> Tags<'t>,
        H: Handler<T, App<B>>,
        T: 'static,
    {
        let path = D::path();
        for method in D::methods() {
            let filter = filter(&method);
            self.router = self.router.route(&path, on(filter, handler.clone()));
        }
        let mut operation = D::operation();
        operation.tags = Some(D::tags().into_iter().map(str::to_owned).collect());
        self.paths
            .add_path_operation(&path, D::methods(), operation);
        D::schemas(&mut self.schemas);
        self
    }

    /// What answers, and what is said about it.
    pub(crate) fn into_parts(self) -> (Router<App<B>>, Paths, Components) {
        let mut components = Components::new();
        components.schemas.extend(self.schemas);
        (self.router, self.paths, components)
    }
}

fn filter(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Trace => MethodFilter::TRACE,
        // It answers HEAD as well.
        _ => MethodFilter::GET,
    }
}
