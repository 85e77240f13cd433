//! Database URLs, and URLs in general, without the password that they may hold.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{SecretFileError, read_secret};
use crate::Error;
use crate::source::DatabaseKind;

/// What a Postgres URL may set behind its `?`, as the driver knows it. A name that it does not know it
/// would ignore, and `sslmod=verify-full` must not mean no TLS.
const POSTGRES: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "statement-cache-capacity",
    "user",
];

/// A database's URL: `sqlite:///path/file.db` or `postgres://user:password@host:port/name`.
///
/// `Display`, `Debug` and serde write it without the password; [`Self::reveal`] gives all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The whole URL, for the one who connects.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The URL that a file holds; see [`read_secret`].
    ///
    /// # Errors
    /// The file can't be read, or holds no single line. Whether that is a URL is left to
    /// [`Self::check`].
    pub fn from_file(file: &Path) -> Result<Self, SecretFileError> {
        let text = read_secret(file)?;
        if text.contains('\n') {
            return Err(SecretFileError::new(file, "must hold one line"));
        }
        Ok(Self::from(text))
    }

    /// Whether it names a database that this library knows, with settings that its driver knows.
    ///
    /// # Errors
    /// [`Error::UnknownUrl`], [`Error::UnknownUrlSetting`]; neither quotes a value.
    pub fn check(&self) -> Result<DatabaseKind, Error> {
        let kind = DatabaseKind::of(&self.0)?;
        if kind == DatabaseKind::Postgres {
            check_settings(&self.0)?;
        }
        Ok(kind)
    }
}

/// Refuses settings that the Postgres driver would ignore.
pub(crate) fn check_settings(url: &str) -> Result<(), Error> {
    let (_, query) = url.split_once('?').unwrap_or_default();
    let query = query.split('#').next().unwrap_or_default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap_or_default();
        let nested = name.starts_with("options[") || name.starts_with("options%5B");
        if !nested && !POSTGRES.contains(&name) {
            // Without the value, and the name only if it is none: `?hunter2` is all name.
            let named = pair.contains('=');
            return Err(Error::UnknownUrlSetting {
                name: if named { name.to_owned() } else { "…".into() },
            });
        }
    }
    Ok(())
}

impl From<String> for DatabaseUrl {
    fn from(text: String) -> Self {
        Self(text.trim().to_owned())
    }
}

impl From<&String> for DatabaseUrl {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&str> for DatabaseUrl {
    fn from(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A URL of any kind, fit for logs: `***` for the password, in front of the `@` as behind the `?`.
/// Where it can't be told what is what, more is hidden rather than less.
pub fn without_password(url: &str) -> String {
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    let (scheme, rest) = match url.find("://") {
        Some(at) => url.split_at(at + 3),
        None => ("", url),
    };
    // The last @, because a password that was not encoded may hold others.
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (user.split_once(':').map_or(user, |(name, _)| name), place),
        None => return format!("{scheme}{}", hide_port(&hide_settings(rest))),
    };
    let secret = rest.len() > user.len() + 1 + place.len();
    let mark = if secret { ":***" } else { "" };
    format!("{scheme}{user}{mark}@{}", hide_settings(place))
}

/// `user:password` without a host looks like host and port; a port is a number.
fn hide_port(rest: &str) -> String {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    match authority.split_once(':') {
        Some((host, port))
            if !authority.starts_with('[') && !port.bytes().all(|b| b.is_ascii_digit()) =>
        {
            format!("{host}:***{behind}")
        }
        _ => rest.to_owned(),
    }
}

/// Shows the values of settings that are known to be no secret.
fn hide_settings(place: &str) -> String {
    let Some((place, query)) = place.split_once('?') else {
        return place.to_owned();
    };
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        // A private key may be given as a file or as it is.
        Some((name, value)) if name.ends_with("key") && value.starts_with('/') => pair.to_owned(),
        Some((name, _)) if name.ends_with("key") || name == "password" => format!("{name}=***"),
        Some((name, _)) if POSTGRES.contains(&name) => pair.to_owned(),
        Some((name, _)) => format!("{name}=***"),
        None => "***".to_owned(),
    });
    format!("{place}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// A text that may quote URLs, such as the refusal of a command line, without their passwords.
pub fn without_passwords(text: &str) -> String {
    let apart = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | '\u{1b}');
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(apart).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        // NAME=URL,NAME=URL hides all but the first name and the last place.
        match word.contains("://") || word.contains('@') {
            true => shown.push_str(&without_password(word)),
            false => shown.push_str(word),
        }
        let gap = behind.chars().next().map_or(0, char::len_utf8);
        shown.push_str(&behind[..gap]);
        rest = &behind[gap..];
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::{DatabaseUrl, without_password, without_passwords};

    #[test]
    fn a_password_never_shows_however_the_url_is_written() {
        for (url, shown) in [
            ("postgres://u:hush@h:1/d", "postgres://u:***@h:1/d"),
            ("postgres://u:hu@sh:w@h:1/d", "postgres://u:***@h:1/d"),
            ("postgres://u:hu?sh@h/d", "postgres://u:***@h/d"),
            ("postgres://u:hu/sh@h/d", "postgres://u:***@h/d"),
            ("postgres://u:hush/d", "postgres://u:***/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://h:5432/d", "postgres://h:5432/d"),
            ("postgres://[::1]:5432/d", "postgres://[::1]:5432/d"),
            ("u:hush@h/d", "u:***@h/d"),
            ("sqlite:///a/b@c:d.db", "sqlite:///a/b@c:d.db"),
            (
                "postgres://u@h/d?sslmode=require&password=hush&pasword=hush&hush",
                "postgres://u@h/d?sslmode=require&password=***&pasword=***&***",
            ),
            (
                "postgres://h/d?sslcert=/c&sslkey=/k",
                "postgres://h/d?sslcert=/c&sslkey=/k",
            ),
            (
                "postgres://h/d?sslkey=-----BEGIN+hush",
                "postgres://h/d?sslkey=***",
            ),
            ("https://me:hush@c:4318/v1", "https://me:***@c:4318/v1"),
        ] {
            assert_eq!(without_password(url), shown);
            let url = DatabaseUrl::from(url);
            assert_eq!(format!("{url} {url:?}"), format!("{shown} {shown}"));
        }
        assert_eq!(
            without_passwords("no such thing: 'order=postgres://u:hush@h/d'\nsee --help"),
            "no such thing: 'order=postgres://u:***@h/d'\nsee --help"
        );
    }

    #[test]
    fn a_setting_that_the_driver_would_ignore_is_refused_by_its_name_alone() {
        let told = |url: &str| match DatabaseUrl::from(url).check() {
            Ok(kind) => format!("{kind:?}"),
            Err(error) => error.to_string(),
        };
        let fine = "postgres://h/d?sslmode=verify-full&options[search_path]=a&options=-c%20x";
        assert_eq!(told(fine), "Postgres");
        assert_eq!(told("sqlite:///a.db?mode=ro"), "Sqlite");
        let typo = told("postgres://h/d?sslmod=verify-full");
        assert!(
            typo.contains("sslmod") && !typo.contains("verify-full"),
            "{typo}"
        );
        assert!(!told("postgres://h/d?hush").contains("hush"));
        assert!(!told("hush").contains("hush"));
    }
}
