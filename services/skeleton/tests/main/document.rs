//! `/openapi.json` and `/docs`.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use super::{ask, get, router, world};

#[tokio::test]
async fn the_document_says_for_every_route_what_it_may_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (status, headers, text) = get(&router(&world(&dir).await), "/openapi.json").await;
    assert_eq!(
        (status, &headers["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(
        document["info"]["description"]
            .as_str()
            .unwrap()
            .starts_with("Keeps things.")
    );
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        paths,
        [
            "/dead-letters",
            "/healthz",
            "/metrics",
            "/readyz",
            "/things",
            "/things/{id}"
        ]
    );
    let answers = |path: &str, method: &str| -> Vec<String> {
        let operation = &document["paths"][path][method];
        assert!(operation["summary"].is_string(), "{path}");
        let responses = operation["responses"].as_object().unwrap();
        responses.keys().cloned().collect()
    };
    assert_eq!(answers("/healthz", "get"), ["200", "414", "431", "503"]);
    assert_eq!(
        answers("/things/{id}", "delete"),
        ["200", "400", "403", "414", "431", "500", "503"]
    );
    let body = &document["components"]["schemas"]["NewThing"];
    assert_eq!(
        body["additionalProperties"], false,
        "unknown fields are refused"
    );
    let user = &body["properties"]["user"];
    assert!(
        user["pattern"].is_string(),
        "as texts with control characters are: {user}"
    );
    // Everything referred to is there, and every problem is a problem document.
    for (at, _) in text.match_indices("\"#/components/") {
        let reference = text[at + 2..].split('"').next().unwrap();
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
    for (name, answer) in document["components"]["responses"].as_object().unwrap() {
        let schema = &answer["content"]["application/problem+json"]["schema"];
        assert_eq!(
            schema,
            &json!({"$ref": "#/components/schemas/Problem"}),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(&world(&dir).await);
    let (status, headers, _) = get(&router, "/docs").await;
    assert_eq!(
        (status, &headers["location"]),
        (StatusCode::SEE_OTHER, &"/docs/".parse().unwrap())
    );
    let (status, headers, page) = get(&router, "/docs/").await;
    assert_eq!(status, StatusCode::OK);
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'self'"), "{policy}");
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in page.match_indices(attribute) {
            let target = page[at + attribute.len()..].split('"').next().unwrap();
            assert!(
                target.starts_with("./") || target.ends_with(".css"),
                "{target}"
            );
            let file = target.trim_start_matches("./");
            let (status, ..) = get(&router, &format!("/docs/{file}")).await;
            assert_eq!(status, StatusCode::OK, "{target}");
        }
    }
    let (_, _, script) = get(&router, "/docs/swagger-initializer.js").await;
    assert!(
        script.contains("/openapi.json") && !script.contains("https://"),
        "{script}"
    );
}

#[tokio::test]
async fn a_wrong_method_or_path_is_a_problem_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(&world(&dir).await);
    for (path, status, allow) in [
        ("/healthz", 405, Some("GET,HEAD")),
        ("/things", 405, Some("POST")),
        ("/docs/", 405, Some("GET,HEAD")),
        ("/nothing", 404, None),
    ] {
        let request = Request::patch(path).body(Body::empty()).unwrap();
        let (answered, headers, text) = ask(&router, request).await;
        assert_eq!(answered, status, "{path}");
        assert_eq!(
            headers["content-type"], "application/problem+json",
            "{path}: {text}"
        );
        assert_eq!(
            headers.get("allow").map(|v| v.to_str().unwrap()),
            allow,
            "{path}"
        );
    }
}
