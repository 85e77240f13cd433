//! Request bodies, read field by field, so that every refusal names its field.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use onceward_http::FieldError;

use crate::{ApiError, Money};

/// The body of a request as it came; how large it may be is the guard's to say. The content type
/// does not matter.
#[derive(Debug, Clone)]
pub struct Body(pub Vec<u8>);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        // In memory already, and bounded: `onceward_http::Guard` has read it.
        let body = axum::body::to_bytes(request.into_body(), usize::MAX).await;
        body.map(|body| Self(body.into()))
            .map_err(|_| ApiError::field(StatusCode::BAD_REQUEST, "body", "could not be read"))
    }
}

/// The fields of a JSON object while they are being taken out. Every fault is noted, so that the
/// client sees all of them at once; [`Fields::finish`] tells.
#[derive(Debug)]
pub struct Fields {
    fields: BTreeMap<String, Box<RawValue>>,
    errors: Vec<FieldError>,
}

/// A JSON object whose values are still text; a name that comes twice is refused, because readers
/// disagree about which value counts.
struct Unique(BTreeMap<String, Box<RawValue>>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Unique;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Unique, A::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if fields.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!("{name} is given twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Unique(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl Body {
    /// Reads the body as a JSON object.
    pub fn fields(&self) -> Result<Fields, ApiError> {
        let object: Unique = serde_json::from_slice(&self.0).map_err(|error| {
            ApiError::field(
                StatusCode::BAD_REQUEST,
                "body",
                format!("must be a JSON object: {error}"),
            )
        })?;
        Ok(Fields {
            fields: object.0,
            errors: Vec::new(),
        })
    }
}

/// What [`text_fault`] lets pass, but for the length, as the API documents tell it.
pub(crate) const TEXT_PATTERN: &str =
    r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";

/// What is wrong with a text of a client, if anything is.
pub fn text_fault(text: &str, max_chars: usize) -> Option<String> {
    if text.trim().is_empty() {
        Some("must not be empty".to_owned())
    } else if text.chars().count() > max_chars {
        Some(format!("must not be longer than {max_chars} characters"))
    } else if text.chars().any(char::is_control) {
        Some("must not contain control characters".to_owned())
    } else {
        None
    }
}

impl Fields {
    fn take(&mut self, field: &'static str) -> Option<Box<RawValue>> {
        let value = self.fields.remove(field);
        if value.is_none() {
            self.refuse(field, "is missing");
        }
        value
    }

    /// Notes a fault of a field that only the caller can see.
    pub fn refuse(&mut self, field: &'static str, detail: impl Into<String>) {
        self.errors.push(FieldError {
            field: field.into(),
            detail: detail.into(),
        });
    }

    /// [`Self::text`], or nothing where the field is missing or null.
    pub fn optional_text(&mut self, field: &'static str, max_chars: usize) -> Option<String> {
        match self.fields.get(field).map(|raw| raw.get()) {
            None => None,
            Some("null") => {
                self.fields.remove(field);
                None
            }
            Some(_) => self.text(field, max_chars),
        }
    }

    /// A text of 1 to `max_chars` characters, without control characters.
    pub fn text(&mut self, field: &'static str, max_chars: usize) -> Option<String> {
        let raw = self.take(field)?;
        let Ok(text) = serde_json::from_str::<String>(raw.get()) else {
            self.refuse(field, "must be a text");
            return None;
        };
        if let Some(fault) = text_fault(&text, max_chars) {
            self.refuse(field, fault);
            return None;
        }
        Some(text)
    }

    /// A whole number in `range`.
    pub fn integer(&mut self, field: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let raw = self.take(field)?;
        let digits = raw.get().strip_prefix('-').unwrap_or(raw.get());
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            self.refuse(field, "must be a whole number");
            return None;
        }
        // All digits and still no i64: out of any range.
        match raw.get().parse::<i64>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                let (least, most) = (range.start(), range.end());
                self.refuse(field, format!("must be from {least} to {most}"));
                None
            }
        }
    }

    /// An amount of money above zero.
    pub fn money(&mut self, field: &'static str) -> Option<Money> {
        let raw = self.take(field)?;
        match Money::parse(raw.get()) {
            Ok(money) if money.minor() > 0 => Some(money),
            Ok(_) => {
                self.refuse(field, "must be more than 0");
                None
            }
            Err(fault) => {
                self.refuse(field, fault.to_string());
                None
            }
        }
    }

    /// What was taken, unless a field was refused or one is left that nobody asked for.
    ///
    /// `taken` is `None` only if one of its fields is:
    /// `fields.finish(user.zip(amount))`.
    pub fn finish<T>(mut self, taken: Option<T>) -> Result<T, ApiError> {
        for field in std::mem::take(&mut self.fields).into_keys() {
            let shown: String = field.chars().take(100).collect();
            self.errors.push(FieldError {
                field: shown.into(),
                detail: "is not known".into(),
            });
        }
        match taken {
            Some(taken) if self.errors.is_empty() => Ok(taken),
            _ => {
                self.errors.truncate(20);
                Err(ApiError::invalid(self.errors))
            }
        }
    }
}
