//! The OpenAPI document of a service, and the page that shows it.
//!
//! A service describes its own routes ([`crate::Routes`]). What is the same for all of them is
//! said here, once: health and metrics, the headers every request may carry, the problems every
//! route may answer, and who operators are.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use axum::{Router, middleware, routing};
use onceward_http::{FieldError, PROBLEM_JSON, Problem};
use serde_json::json;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem, Paths};
use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, Content, ContentBuilder, HeaderBuilder, InfoBuilder, LicenseBuilder, OpenApi,
    OpenApiBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Tag,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::body::TEXT_PATTERN;
use crate::{Definition, OperatorAccess};

/// Where the document is.
pub(crate) const DOCUMENT: &str = "/openapi.json";
/// Where the page is.
pub(crate) const PAGE: &str = "/docs";

/// Name of the security scheme of operator routes, as `#[utoipa::path(security(..))]` names it.
const OPERATOR: &str = "operator";

/// What every service tells first.
const ABOUT_ALL: &str = "\n\n\
## Rules of every service of the shop\n\
- **Errors** are `application/problem+json` (RFC 9457). `detail` says what to do, `errors` names every \
field at fault.\n\
- **Repeating a write** is safe with an `Idempotency-Key`: the first answer is stored with what was \
written, in one transaction, and given again for a day. The same key with another body is refused.\n\
- **503 with `Retry-After`** means that nothing is wrong with the request: repeat it, with the same key.\n\
- **Lists** come newest first, in pages: pass `next` of one page as `before` of the following one. The \
last page has no `next`.\n\
- **Correlation**: send a `correlation-id` (a UUID) to find all messages of a story again \
(`onceward message trace ID`); without one a new story begins. Every answer carries it.\n\
- **Limits**: path 8 KiB, header fields 16 KiB, body 64 KiB, 10 seconds, unless set otherwise.";

/// A problem that any route may answer: status, name among the components, when.
struct Shared {
    status: &'static str,
    name: &'static str,
    when: &'static str,
    retry: bool,
}

const fn shared(status: &'static str, name: &'static str, when: &'static str) -> Shared {
    let retry = false;
    Shared {
        status,
        name,
        when,
        retry,
    }
}

/// Answered before a route is looked at, so by every one.
const BY_ALL: &[Shared] = &[
    shared("414", "UriTooLong", "Path and query are too long."),
    shared(
        "431",
        "HeadTooLarge",
        "The header fields together are too large.",
    ),
    Shared {
        status: "503",
        name: "Unavailable",
        when: "Too many requests at the same time, a database that is down, or an answer that took \
               too long. Repeat it; a write with the same `Idempotency-Key`.",
        retry: true,
    },
];
/// Answered by routes, but not by health and metrics.
const BY_ROUTES: &[Shared] = &[
    shared(
        "400",
        "Malformed",
        "A header, the path, the query or the body can't be understood; the problem names it.",
    ),
    shared(
        "500",
        "Failed",
        "A fault of the service. The cause is in its log, under this correlation id.",
    ),
];
/// Answered by routes that take a body.
const WITH_BODY: &[Shared] = &[
    shared("408", "BodyTooSlow", "The body did not arrive in time."),
    shared("413", "BodyTooLarge", "The body is too large."),
    shared(
        "422",
        "Invalid",
        "The body is well-formed, and these fields of it are not acceptable. Nothing was done.",
    ),
];
/// Answered to those who are no operators.
const NO_TOKEN: Shared = shared(
    "401",
    "NoOperator",
    "The operator token is missing or wrong.",
);
const NOT_HERE: Shared = shared(
    "403",
    "NotOnThisMachine",
    "No operator token is set, so only clients on the service's own machine may do this.",
);

/// The whole document of a service with these routes.
pub(crate) fn document(
    definition: &Definition,
    operators: &OperatorAccess,
    mut routes: (Paths, Components),
    mut health: (Paths, Components),
) -> OpenApi {
    let mut components = routes.1;
    components.schemas.append(&mut health.1.schemas);
    for (name, schema) in [
        (Problem::name(), Problem::schema()),
        (FieldError::name(), FieldError::schema()),
    ] {
        components.schemas.insert(name.into_owned(), schema);
    }
    for answer in [BY_ALL, BY_ROUTES, WITH_BODY, &[NO_TOKEN, NOT_HERE]]
        .into_iter()
        .flatten()
    {
        components
            .responses
            .insert(answer.name.into(), problem(answer).into());
    }
    let has_operators = operations(&mut routes.0).any(|route| route.security.is_some());
    if let (OperatorAccess::Token(_), true) = (operators, has_operators) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "The token that the service was started with (`--operator-token-file`).",
            ))
            .build();
        components.add_security_scheme(OPERATOR, SecurityScheme::Http(scheme));
    }
    for operation in operations(&mut routes.0) {
        add(operation, BY_ROUTES);
        add(operation, BY_ALL);
        for parameter in operation.parameters.iter_mut().flatten() {
            if let RefOr::T(parameter) = parameter {
                parameter.schema.iter_mut().for_each(describe_text);
            }
        }
        if let Some(RefOr::T(body)) = &operation.request_body {
            let contents = body.content.values();
            contents.for_each(|content| close(content, &mut components));
            add(operation, WITH_BODY);
        }
        say_who(operation, operators);
        add_story(operation);
    }
    for operation in operations(&mut health.0) {
        add(operation, BY_ALL);
    }
    let mut tags: Vec<String> = Vec::new();
    for operation in operations(&mut routes.0).chain(operations(&mut health.0)) {
        for tag in operation.tags.iter().flatten() {
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
    }
    routes.0.merge(health.0);
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title(format!("Onceward shop: {}", definition.name))
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(format!("{}{ABOUT_ALL}", definition.about)))
                .license(Some(
                    LicenseBuilder::new()
                        .name("MIT OR Apache-2.0")
                        .identifier(Some("MIT OR Apache-2.0"))
                        .build(),
                ))
                .build(),
        )
        // In this order on the page, health last.
        .tags(Some(tags.into_iter().map(Tag::new)))
        .paths(routes.0)
        .components(Some(components))
        .build()
}

fn operations(paths: &mut Paths) -> impl Iterator<Item = &mut Operation> {
    paths.paths.values_mut().flat_map(|item: &mut PathItem| {
        [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
        ]
        .into_iter()
        .filter_map(Option::as_mut)
    })
}

/// Adds these answers, unless the route says something more exact itself.
fn add(operation: &mut Operation, answers: &[Shared]) {
    for answer in answers {
        let responses = &mut operation.responses.responses;
        responses
            .entry(answer.status.into())
            .or_insert_with(|| Ref::from_response_name(answer.name).into());
    }
}

fn problem(answer: &Shared) -> Response {
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(Problem::name())))
        .build();
    let mut response = ResponseBuilder::new()
        .description(answer.when)
        .content(PROBLEM_JSON, content);
    if answer.retry {
        let seconds = HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::Integer)))
            .description(Some("Seconds to wait before it is worth trying again."))
            .build();
        response = response.header("Retry-After", seconds);
    }
    if answer.status == NO_TOKEN.status {
        let challenge = HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .description(Some("`Bearer`: what to send in `Authorization`."))
            .build();
        response = response.header("WWW-Authenticate", challenge);
    }
    response.build()
}

/// Says what [`crate::Fields`] refuses for every route: other fields, and what no text may hold.
fn close(content: &RefOr<Content>, components: &mut Components) {
    let RefOr::T(content) = content else { return };
    let Some(RefOr::Ref(reference)) = &content.schema else {
        return;
    };
    let name = reference
        .ref_location
        .rsplit('/')
        .next()
        .unwrap_or_default();
    if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(name) {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        object.properties.values_mut().for_each(describe_text);
    }
}

/// Says what [`crate::text_fault`] refuses. A text is what has a longest length; a pattern or a format of its own says
/// more.
fn describe_text(schema: &mut RefOr<Schema>) {
    if let RefOr::T(Schema::Object(text)) = schema
        && text.max_length.is_some()
        && text.format.is_none()
    {
        text.pattern.get_or_insert_with(|| TEXT_PATTERN.into());
    }
}

/// Says who may use an operator route of this very process.
fn say_who(operation: &mut Operation, operators: &OperatorAccess) {
    if operation.security.is_none() {
        return;
    }
    let who = match operators {
        OperatorAccess::Token(_) => {
            add(operation, &[NO_TOKEN]);
            "**Operators only**: needs the operator token."
        }
        OperatorAccess::ThisMachine => {
            add(operation, &[NOT_HERE]);
            operation.security = None;
            "**Operators only**: this service was started without an operator token, so clients on \
             its own machine are operators, and nobody else."
        }
    };
    let said = operation.description.take().unwrap_or_default();
    operation.description = Some(format!("{said}\n\n{who}").trim().to_owned());
}

/// The headers that every route takes and answers.
fn add_story(operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    parameters.extend(STORY_HEADERS.iter().cloned().map(RefOr::T));
    for (status, response) in &mut operation.responses.responses {
        if let (true, RefOr::T(response)) = (status.starts_with('2'), response) {
            let id = HeaderBuilder::new()
                .schema(Some(uuid()))
                .description(Some("The story this request belongs to."))
                .build();
            response.headers.insert("correlation-id".into(), id.into());
        }
    }
}

static STORY_HEADERS: LazyLock<[Parameter; 2]> = LazyLock::new(|| {
    let header = |name: &str, about: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(about))
    };
    let text = ObjectBuilder::new().schema_type(Type::String);
    [
        header(
            "correlation-id",
            "Goes on with this story; without it a new one begins.",
        )
        .schema(Some(uuid()))
        .example(Some(json!("0190b4a0-0000-7000-8000-000000000001")))
        .build(),
        header(
            "traceparent",
            "W3C trace context, handed on in every message; ignored if it is invalid.",
        )
        .schema(Some(text))
        .example(Some(json!(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        )))
        .build(),
    ]
});

fn uuid() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
}

/// `/openapi.json` and `/docs`. Every file of the page is in the binary.
pub(crate) fn router(document: &OpenApi) -> Result<Router, serde_json::Error> {
    let json = document.to_pretty_json()?;
    let config = Config::from(DOCUMENT)
        // It would ask an outside server whether the document is valid.
        .validator_url("none")
        .try_it_out_enabled(true)
        .display_request_duration(true)
        .persist_authorization(false)
        .default_models_expand_depth(0);
    let page: Router = SwaggerUi::new(PAGE).config(config).into();
    let page = page.layer(middleware::map_response(async |mut answer: axum::response::Response| {
        // Nothing from elsewhere, whatever a later version of the page may want.
        let ours = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                    frame-ancestors 'none'";
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(ours),
        );
        answer
    }));
    let document = routing::get(async move || {
        ([(header::CONTENT_TYPE, "application/json")], json.clone()).into_response()
    });
    Ok(page.route(DOCUMENT, document))
}
