//! Money: whole minor units inside, `199.99` outside, and never a float between.

use std::fmt;

use onceward::consumer::HandlerError;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

/// An amount in minor units (cents), 0 to [`Money::MAX_MINOR`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// Why a text is not an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotMoney {
    /// Not a plain decimal number.
    #[error("must be a number such as 199.99")]
    Form,
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// Smaller than a cent.
    #[error("must not have more than two decimals")]
    Decimals,
    /// Over the limit.
    #[error("must not be more than {}", Money(Money::MAX_MINOR))]
    TooLarge,
}

impl Money {
    /// The largest amount: 1,000,000,000.00.
    pub const MAX_MINOR: i64 = 100_000_000_000;

    /// An amount of so many minor units, if it is in range.
    pub fn from_minor(minor: i64) -> Option<Self> {
        (0..=Self::MAX_MINOR)
            .contains(&minor)
            .then_some(Self(minor))
    }

    /// So many cents.
    pub const fn cents(cents: u32) -> Self {
        // Widens: `i64::from` is not const, and every u32 is in range.
        Self(cents as i64)
    }

    /// An amount that a message tells. Anybody may have written it: amounts beyond all bounds can't
    /// be added up.
    ///
    /// # Errors
    /// [`HandlerError::Reject`] if it is not in range: the message becomes a dead letter.
    pub fn of_message(minor: i64) -> Result<Self, HandlerError> {
        let most = Self::MAX_MINOR;
        Self::from_minor(minor).ok_or_else(|| {
            HandlerError::Reject(format!("an amount must be from 0 to {most}").into())
        })
    }

    /// In minor units.
    pub fn minor(self) -> i64 {
        self.0
    }

    /// Reads the text of a JSON number exactly: `199.99`, `200`, `0.5`. Exponents are refused.
    pub fn parse(text: &str) -> Result<Self, NotMoney> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, cents) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !plain(whole) || !plain(cents) {
            return Err(NotMoney::Form);
        }
        if negative {
            return Err(NotMoney::Negative);
        }
        if cents.len() > 2 {
            return Err(NotMoney::Decimals);
        }
        let whole: i64 = whole.parse().map_err(|_| NotMoney::TooLarge)?;
        let cents: i64 = format!("{cents:0<2}").parse().map_err(|_| NotMoney::Form)?;
        whole
            .checked_mul(100)
            .and_then(|minor| minor.checked_add(cents))
            .and_then(Self::from_minor)
            .ok_or(NotMoney::TooLarge)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// As a JSON number with two decimals: `199.99`, `200.00`.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.to_string())
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl PartialSchema for Money {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::Number)
            .format(Some(SchemaFormat::Custom("decimal".into())))
            .description(Some(
                "An amount of money: a number with at most two decimals and no exponent. Never \
                 held as a float.",
            ))
            .minimum(Some(0.0))
            .maximum(Some(1_000_000_000.0))
            .examples([json!(199.99)])
            .into()
    }
}

impl ToSchema for Money {}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::parse(raw.get()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{Money, NotMoney};

    #[test]
    fn amounts_are_read_exactly_as_they_are_written() {
        for (text, minor) in [
            ("199.99", 19_999),
            ("200", 20_000),
            ("0.5", 50),
            ("0.05", 5),
            ("0", 0),
            ("1000000000.00", Money::MAX_MINOR),
            ("4.35", 435), // 434.99999999999994 as a float times 100
        ] {
            assert_eq!(Money::parse(text).map(Money::minor), Ok(minor), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_by_its_fault() {
        for (text, fault) in [
            ("199.999", NotMoney::Decimals),
            ("1.500", NotMoney::Decimals),
            ("-1", NotMoney::Negative),
            ("-0.01", NotMoney::Negative),
            ("1e3", NotMoney::Form),
            ("\"199.99\"", NotMoney::Form),
            ("true", NotMoney::Form),
            ("", NotMoney::Form),
            (".5", NotMoney::Form),
            ("1000000000.01", NotMoney::TooLarge),
            ("99999999999999999999999999", NotMoney::TooLarge),
        ] {
            assert_eq!(Money::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn an_amount_goes_through_json_as_a_number() {
        let json = serde_json::to_string(&[Money(19_999), Money(5), Money(20_000)]).unwrap();
        assert_eq!(json, "[199.99,0.05,200.00]");
        let back: Vec<Money> = serde_json::from_str(&json).unwrap();
        assert_eq!(back, [Money(19_999), Money(5), Money(20_000)]);
    }
}
