//! What about an ensemble's version and settings weakens its promises.

use futures_util::future::select_ok;
use portunus_core::error::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zookeeper_client::Acls;

use crate::connection::Dial;
use crate::endpoints::Endpoints;
use crate::error::{Effect, Fault};

/// Returns the version of the server that answers, and warnings for people.
pub(crate) async fn inspect(
    dial: &Dial,
    endpoints: &Endpoints,
    acls: &Acls<'_>,
) -> Result<(String, Vec<String>)> {
    let mut warnings = Vec::new();
    if **acls == *Acls::anyone_all() {
        warnings.push(
            "everybody who reaches the ensemble can remove locks: give `user:password@` in the URL"
                .to_owned(),
        );
    }
    let config = endpoints.run(Effect::Read, |client| async move { client.get_config().await });
    match config.await {
        Ok((config, _)) => {
            let config = String::from_utf8_lossy(&config);
            let servers = config.lines().filter(|line| line.starts_with("server.")).count();
            if servers < 2 {
                warnings.push("one server: no fault of it is survived".to_owned());
            }
        }
        Err(fault) => warnings.push(unread("servers", fault)),
    }
    let version = version(dial).await;
    warnings.extend(version.as_deref().and_then(known_bug).map(str::to_owned));
    Ok((version.unwrap_or_else(|| UNKNOWN.to_owned()), warnings))
}

/// Asks with `srvr`, one of the words of four letters, which servers answer unless that is switched
/// off, and only in the clear.
async fn version(dial: &Dial) -> Option<String> {
    if dial.tls.is_some() {
        return None;
    }
    // All at once: one that is silent must not keep the others from being heard.
    let asked = dial.hosts.iter().map(|host| Box::pin(ask(host)));
    select_ok(asked).await.ok().map(|(version, _)| version)
}

async fn ask(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(b"srvr").await?;
    let mut answer = String::new();
    stream.take(LONGEST).read_to_string(&mut answer).await?;
    let line = answer.lines().find_map(|line| line.strip_prefix("Zookeeper version: "));
    let line = line.ok_or_else(|| std::io::Error::other("no version"))?;
    Ok(line.split(['-', ',']).next().unwrap_or(line).to_owned())
}

fn known_bug(version: &str) -> Option<&'static str> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let (major, minor) = numbers.next().flatten().zip(numbers.next().flatten())?;
    ((major, minor) < (3, 5)).then_some("servers before 3.5 have no containers: not supported")
}

fn unread(what: &str, fault: Fault) -> String {
    format!("the {what} can't be read: {:#}", fault.into_error("probe", None))
}

const UNKNOWN: &str = "unknown";
/// No answer to `srvr` is longer.
const LONGEST: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_containers_are_told() {
        assert!(known_bug("3.4.14").is_some());
        assert_eq!((known_bug("3.9.3"), known_bug("3.10.0"), known_bug("x")), (None, None, None));
    }
}
