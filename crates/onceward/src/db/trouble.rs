//! Why no connection to Postgres comes about, as one sentence that says what to mend.

use std::io::ErrorKind;

use sqlx::postgres::PgConnectOptions;

/// What is in the way of a connection with these options: where, what, and which setting to look at.
/// Never a password.
pub fn connect_trouble(options: &PgConnectOptions, error: &sqlx::Error) -> String {
    let (host, port) = (options.get_host(), options.get_port());
    let at = match options.get_socket() {
        Some(socket) => format!("Postgres at {}", socket.display()),
        None => format!("Postgres at {host}:{port}"),
    };
    match error {
        sqlx::Error::Database(said) => {
            let user = options.get_username();
            match said.code().as_deref() {
                Some("28P01") => format!("{at} refuses the password of user {user:?}"),
                _ => format!("{at} refuses: {}", said.message()),
            }
        }
        sqlx::Error::Tls(_) | sqlx::Error::Io(_) => {
            let text = error_text(error);
            match of_tls(&at, host, &text) {
                Some(sentence) => sentence,
                None => of_io(&at, error, &text),
            }
        }
        sqlx::Error::PoolTimedOut => format!("{at} gives no connection in time"),
        other => format!("{at}: {other}"),
    }
}

/// What is below the driver's own words.
fn error_text(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Io(below) => below.to_string(),
        sqlx::Error::Tls(below) => below.to_string(),
        other => other.to_string(),
    }
}

/// rustls' errors come as text, wrapped in those of input and output.
fn of_tls(at: &str, host: &str, text: &str) -> Option<String> {
    let says = |part: &str| text.contains(part);
    // An alert is what the server says of us, the rest what we say of the server.
    if let Some((_, alert)) = text.split_once("received fatal alert: ") {
        let ours = ["Certificate", "UnknownCA", "Decrypt", "AccessDenied"];
        return Some(match ours.iter().any(|kind| alert.contains(kind)) {
            true => format!(
                "{at} refuses our certificate (sslcert, sslkey), or that we have none: {alert}"
            ),
            false => format!("{at} breaks the TLS handshake off: {alert}"),
        });
    }
    let sentence = if says("does not support TLS") {
        format!("{at} offers no TLS, and sslmode asks for it: turn ssl on there")
    } else if says("UnknownIssuer") || says("CaUsedAsEndEntity") {
        format!(
            "the certificate of {at} is signed by none of the authorities in sslrootcert, nor by one \
             of this system"
        )
    } else if says("not valid for name") || says("NotValidForName") {
        format!(
            "the certificate of {at} is not made out to {host}: connect by a name that is in it"
        )
    } else if says("certificate expired") || says("Expired") {
        format!("the certificate of {at} has expired: renew it on the server")
    } else if says("not valid yet") || says("NotValidYet") {
        format!("the certificate of {at} is not valid yet: look at the clocks of both machines")
    } else if says("invalid peer certificate") {
        format!("the certificate of {at} can't be used: {text}")
    } else {
        return None;
    };
    Some(sentence)
}

fn of_io(at: &str, error: &sqlx::Error, text: &str) -> String {
    let sqlx::Error::Io(below) = error else {
        return format!("{at}: no TLS comes about: {text}");
    };
    match below.kind() {
        // No socket says that: it is one of the files that the URL names.
        ErrorKind::NotFound | ErrorKind::PermissionDenied => format!(
            "{at} was not asked: a file of sslrootcert, sslcert or sslkey can't be read: {text}"
        ),
        _ => format!("{at} can't be reached: {text}; start it, or correct the URL"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::connect_trouble;

    #[test]
    fn each_trouble_names_the_place_and_never_the_password() {
        let options = "postgres://me:hush@db:5433/x".parse().unwrap();
        let io = |kind, text: &str| sqlx::Error::Io(io::Error::new(kind, text.to_owned()));
        let peer = |text: &str| io(io::ErrorKind::InvalidData, text);
        for (error, says) in [
            (
                io(io::ErrorKind::ConnectionRefused, "refused"),
                "Postgres at db:5433 can't be reached: refused",
            ),
            (
                peer("invalid peer certificate: UnknownIssuer"),
                "is signed by none of the authorities in sslrootcert",
            ),
            (
                peer("received fatal alert: CertificateExpired"),
                "refuses our certificate (sslcert, sslkey)",
            ),
            (
                peer("invalid peer certificate: certificate expired: verification time …"),
                "of Postgres at db:5433 has expired",
            ),
            (sqlx::Error::PoolTimedOut, "gives no connection in time"),
        ] {
            let told = connect_trouble(&options, &error);
            assert!(told.contains(says), "{told}");
            assert!(!told.contains("hush"), "{told}");
        }
    }
}
