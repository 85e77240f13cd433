//! What must never be printed: passwords, tokens, and database URLs, which may hold a password.
//!
//! [`Secret`] and [`DatabaseUrl`] print themselves without it, so that whatever holds one may derive
//! `Debug`. Each can be given as it is or in a file ([`read_secret`]).

mod url;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use url::check_settings;
pub use url::{DatabaseUrl, without_password, without_passwords};

/// A text that is never printed: `Debug` and serde write `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Whatever it is, because serde's own refusal of a number would quote it.
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text in quotes")
            }
            fn visit_str<E>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }
            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom("a secret must be text in quotes"))
            }
            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom("a secret must be text in quotes"))
            }
            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom("a secret must be text in quotes"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// A file that should hold a secret does not. Its content is never quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", file.display())]
pub struct SecretFileError {
    file: PathBuf,
    what: String,
}

impl SecretFileError {
    fn new(file: &Path, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            what: what.into(),
        }
    }
}

/// Reads a secret out of a file, as container platforms mount them: the whole text, without the line
/// end that editors add. Who may read the file is not looked at: mounted secrets are readable by all
/// of their container.
///
/// # Errors
/// The file can't be read, is empty, or is no text (UTF-8).
pub fn read_secret(file: &Path) -> Result<String, SecretFileError> {
    let bytes = std::fs::read(file)
        .map_err(|error| SecretFileError::new(file, format!("can't be read: {error}")))?;
    let mut text =
        String::from_utf8(bytes).map_err(|_| SecretFileError::new(file, "is no text (UTF-8)"))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    if text.trim().is_empty() {
        return Err(SecretFileError::new(file, "is empty"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{DatabaseUrl, Secret, read_secret};

    #[test]
    fn a_secret_prints_nothing_and_a_number_in_its_place_is_not_quoted() {
        let secret: Secret = serde_json::from_str("\"hush\"").unwrap();
        assert_eq!(secret.reveal(), "hush");
        assert_eq!(
            format!("{secret:?} {}", serde_json::to_string(&secret).unwrap()),
            "*** \"***\""
        );
        let refused = serde_json::from_str::<Secret>("12345678").unwrap_err();
        assert!(!refused.to_string().contains("1234"), "{refused}");
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_without_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let told = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            match read_secret(&file) {
                Ok(text) => text,
                Err(error) => error.to_string(),
            }
        };
        assert_eq!(told(b"open sesame\r\n"), "open sesame");
        assert_eq!(told(b" \n"), format!("{} is empty", file.display()));
        let text = format!("{} is no text (UTF-8)", file.display());
        assert_eq!(told(b"\xffhush"), text);
        std::fs::write(&file, "postgres://u:hush@h/d\nx").unwrap();
        let lines = DatabaseUrl::from_file(&file).unwrap_err().to_string();
        assert!(lines.ends_with("must hold one line"), "{lines}");
        std::fs::remove_file(&file).unwrap();
        let missing = read_secret(&file).unwrap_err().to_string();
        assert!(missing.contains("can't be read: No such file"), "{missing}");
    }
}
