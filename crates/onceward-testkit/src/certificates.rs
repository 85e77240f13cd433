//! Certificates for tests: an authority of one's own that signs what servers and clients need.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name};

use crate::Result;

/// Signs certificates; its own is what clients must know.
pub struct Authority {
    name: String,
    certificate: X509,
    key: PKey<Private>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Authority").field(&self.name).finish()
    }
}

/// A certificate to be issued; `Default` is one for nobody, valid for a day.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'r> {
    /// The common name: who a client is.
    pub name: &'r str,
    /// Addresses a server is reached by.
    pub addresses: &'r [&'r str],
    /// Host names a server is reached by.
    pub hosts: &'r [&'r str],
    /// It ended yesterday.
    pub expired: bool,
}

/// A certificate with its private key.
#[derive(Debug)]
pub struct Issued {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    /// Makes an authority with a new key.
    pub fn new(name: &str) -> Result<Self> {
        let key = new_key()?;
        let mut builder = builder(name, &key, false)?;
        let subject = subject(name)?;
        builder.set_issuer_name(&subject)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self {
            name: name.to_owned(),
            certificate: builder.build(),
            key,
        })
    }

    /// Signs a certificate for a new key.
    pub fn issue(&self, request: Request<'_>) -> Result<Issued> {
        let key = new_key()?;
        let mut builder = builder(request.name, &key, request.expired)?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        let mut names = SubjectAlternativeName::new();
        for address in request.addresses {
            names.ip(address);
        }
        for host in request.hosts {
            names.dns(host);
        }
        if request.addresses.len() + request.hosts.len() > 0 {
            let names = names.build(&builder.x509v3_context(Some(&self.certificate), None))?;
            builder.append_extension(names)?;
        }
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(Issued {
            certificate: builder.build(),
            key,
        })
    }

    /// Writes its certificate as `FOLDER/NAME.ca.pem`.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let file = folder.join(&self.name).with_extension("ca.pem");
        write(&file, &self.certificate.to_pem()?)?;
        Ok(file)
    }
}

impl Issued {
    /// Writes the certificate.
    pub fn write_certificate(&self, file: &Path) -> Result<()> {
        write(file, &self.certificate.to_pem()?)
    }

    /// Writes the private key, readable by its owner only.
    pub fn write_key(&self, file: &Path) -> Result<()> {
        write(file, &self.key.private_key_to_pem_pkcs8()?)
    }

    /// Writes the private key encrypted by this password.
    pub fn write_encrypted_key(&self, file: &Path, password: &str) -> Result<()> {
        let key = &self.key;
        let pem =
            key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), password.as_bytes())?;
        write(file, &pem)
    }

    /// Writes key and certificate into one file: a keystore of the type PEM, as Kafka takes it.
    pub fn write_keystore(&self, file: &Path) -> Result<()> {
        let mut pem = self.key.private_key_to_pem_pkcs8()?;
        pem.extend(self.certificate.to_pem()?);
        write(file, &pem)
    }
}

fn write(file: &Path, pem: &[u8]) -> Result<()> {
    fs::write(file, pem).with_context(|| format!("writing {file:?}"))?;
    // Postgres refuses a key that others may read.
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn new_key() -> Result<PKey<Private>> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&curve)?)?)
}

fn subject(name: &str) -> Result<X509Name> {
    let mut builder = X509Name::builder()?;
    builder.append_entry_by_text("CN", name)?;
    Ok(builder.build())
}

fn builder(name: &str, key: &PKey<Private>, expired: bool) -> Result<X509Builder> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let day = 24 * 3600;
    let now = i64::try_from(
        std::time::UNIX_EPOCH
            .elapsed()
            .context("the clock stands before 1970")?
            .as_secs(),
    )?;
    let (from, to) = match expired {
        true => (now - 2 * day, now - day),
        // Two machines' clocks may differ a little.
        false => (now - 3600, now + day),
    };
    let mut builder = X509::builder()?;
    builder.set_version(2)?; // means 3
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&*subject(name)?)?;
    builder.set_not_before(&*Asn1Time::from_unix(from)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(to)?)?;
    builder.set_pubkey(key)?;
    Ok(builder)
}
