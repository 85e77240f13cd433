//! As much of SMTP (RFC 5321) as a client needs to hand a mail over.

use std::io;
use std::time::Duration;

use mail_parser::MessageParser;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Mail, Mails};

/// Longest line, in bytes; the standard allows 1,000.
const MAX_LINE: u64 = 4_096;
/// Largest mail, in bytes.
const MAX_MAIL: usize = 1024 * 1024;
/// How long a client may be silent.
const SILENCE: Duration = Duration::from_secs(300);

pub(crate) async fn serve(listener: TcpListener, mails: Mails, stop: CancellationToken) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let mails = mails.clone();
                clients.spawn(async move {
                    if let Err(error) = talk(stream, &mails).await {
                        tracing::debug!(%error, "a client of the mail server went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a client could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while clients.try_join_next().is_some() {}
    }
    // A mail counts only once its "250" was sent, so nothing is lost by this.
    clients.shutdown().await;
}

async fn talk(stream: TcpStream, mails: &Mails) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    write.write_all(b"220 mail-sink\r\n").await?;
    let mut to: Vec<String> = Vec::new();
    let mut has_sender = false;
    while let Some(line) = next_line(&mut read).await? {
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        let answer: &[u8] = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => b"250-mail-sink\r\n250-8BITMIME\r\n250 SIZE 1048576\r\n",
            "HELO" | "NOOP" => b"250 ok\r\n",
            "RSET" => {
                (to, has_sender) = (Vec::new(), false);
                b"250 ok\r\n"
            }
            "MAIL" => {
                (to, has_sender) = (Vec::new(), true);
                b"250 ok\r\n"
            }
            "RCPT" if has_sender => {
                let address = line
                    .split_once('<')
                    .and_then(|(_, rest)| rest.split_once('>'));
                to.extend(address.map(|(address, _)| address.to_owned()));
                b"250 ok\r\n"
            }
            "DATA" if !to.is_empty() => {
                write.write_all(b"354 go on, end with a dot\r\n").await?;
                let answer: &[u8] = match data(&mut read).await? {
                    Some(bytes) => {
                        mails.add(mail(&bytes, std::mem::take(&mut to)));
                        b"250 taken\r\n"
                    }
                    None => b"552 too large\r\n",
                };
                has_sender = false;
                answer
            }
            "RCPT" | "DATA" => b"503 MAIL and RCPT first\r\n",
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => b"500 not understood\r\n",
        };
        write.write_all(answer).await?;
    }
    Ok(())
}

/// The next line with its end, or nothing where the client has gone.
async fn next_line(
    read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>,
) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut bounded = read.take(MAX_LINE);
    let reading = bounded.read_until(b'\n', &mut line);
    let count = tokio::time::timeout(SILENCE, reading).await??;
    match line.last() {
        Some(b'\n') => Ok(Some(line)),
        Some(_) if u64::try_from(count).is_ok_and(|count| count >= MAX_LINE) => {
            Err(io::Error::other("a line that is too long"))
        }
        _ => Ok(None),
    }
}

/// Everything up to the dot, or nothing if it is too large.
async fn data(read: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut fits = true;
    loop {
        let Some(line) = next_line(read).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        if line == b".\r\n" || line == b".\n" {
            return Ok(fits.then_some(bytes));
        }
        // A dot at the beginning was doubled by the client.
        let line = line.strip_prefix(b".").unwrap_or(&line);
        fits = fits && bytes.len() + line.len() <= MAX_MAIL;
        if fits {
            bytes.extend_from_slice(line);
        }
    }
}

fn mail(bytes: &[u8], to: Vec<String>) -> Mail {
    let parsed = MessageParser::default().parse(bytes);
    let parsed = parsed.as_ref();
    let from = parsed
        .and_then(|mail| mail.from())
        .and_then(|from| from.first());
    Mail {
        number: 0,
        message_id: parsed.and_then(|m| m.message_id()).map(str::to_owned),
        from: from
            .and_then(|from| from.address())
            .unwrap_or_default()
            .to_owned(),
        to,
        subject: parsed.and_then(|m| m.subject()).map(str::to_owned),
        text: parsed
            .and_then(|m| m.body_text(0))
            .map(|text| text.into_owned()),
    }
}
