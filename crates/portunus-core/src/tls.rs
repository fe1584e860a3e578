//! The files that TLS needs: the options that name them, shared by every store, and reading them.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::url::StoreUrl;

/// The files that TLS needs, by their paths; nothing is read before [`read`](Self::read).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsConfig {
    ca: PathBuf,
    identity: Option<(PathBuf, PathBuf)>,
}

/// What is in the files, as PEM. `Debug` shows none of it.
#[derive(Clone)]
pub struct TlsFiles {
    /// The certificates to trust.
    pub ca: Vec<u8>,
    /// The client's certificate and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl TlsConfig {
    /// Trusts the certificates in the PEM file `ca` and no others.
    #[must_use]
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), identity: None }
    }

    /// Trusts the certificates in another PEM file instead.
    #[must_use]
    pub fn ca(mut self, ca: impl Into<PathBuf>) -> Self {
        self.ca = ca.into();
        self
    }

    /// Shows the server the certificate in the PEM file `cert`, with the private key in `key`.
    #[must_use]
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((cert.into(), key.into()));
        self
    }

    /// Takes the options `tls`, `ca`, `cert` and `key`; `secure` is the scheme that is short for
    /// `tls=true`, where the store has one. `None` means in the clear.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a set that is half given or contradicts itself.
    pub fn from_url(
        url: &mut StoreUrl,
        store: &'static str,
        secure: Option<&str>,
    ) -> Result<Option<Self>> {
        let tls = url.take_bool("tls")?;
        let (ca, cert, key) = (url.take("ca"), url.take("cert"), url.take("key"));
        let tls = match (secure.filter(|secure| *secure == url.scheme()), tls) {
            (Some(secure), Some(false)) => {
                return Err(invalid(store, format!("`{secure}` contradicts `tls=false`")));
            }
            (Some(_), _) => true,
            (None, tls) => tls.unwrap_or(false),
        };
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            (Some(_), None) => return Err(invalid(store, "option `cert` needs `key` beside it")),
            (None, Some(_)) => return Err(invalid(store, "option `key` needs `cert` beside it")),
        };
        match (tls, ca, identity) {
            (true, Some(ca), identity) => Ok(Some(Self { ca: ca.into(), identity })),
            (true, None, _) => Err(invalid(store, NEEDS_CA)),
            (false, Some(_), _) => Err(invalid(store, "option `ca` needs `tls=true` beside it")),
            (false, _, Some(_)) => Err(invalid(store, "option `cert` needs `tls=true` beside it")),
            (false, None, None) => Ok(None),
        }
    }

    /// Reads and checks the files. Whether `key` belongs to `cert` is for the store's client
    /// library to say, and [`mismatch`](Self::mismatch) is the error if not.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`], with the path as its key, for a file that can't be read, or that
    /// holds no PEM, no certificate that is understood, or no private key.
    pub fn read(&self, store: &'static str) -> Result<TlsFiles> {
        let ca = read_certificates(store, "ca", &self.ca)?;
        let Some((cert, key)) = &self.identity else { return Ok(TlsFiles { ca, identity: None }) };
        let cert = read_certificates(store, "cert", cert)?;
        let key = read_key(store, "key", key)?;
        Ok(TlsFiles { ca, identity: Some((cert, key)) })
    }

    /// The error of a client library that refuses the identity because `key` does not belong to
    /// `cert`.
    #[must_use]
    pub fn mismatch(
        &self,
        store: &'static str,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        let (cert, key) = self.identity.clone().unwrap_or_default();
        invalid(store, format!("`key` does not belong to `cert`, `{}`", cert.display()))
            .with_key(key.display().to_string())
            .with_source(source)
    }
}

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles").finish_non_exhaustive()
    }
}

/// Reads certificates and has them understood: client libraries skip what they do not understand,
/// and then trust nobody.
fn read_certificates(store: &'static str, option: &str, path: &Path) -> Result<Vec<u8>> {
    let pem = read_file(store, option, path)?;
    let fault = || unusable(store, option, path, "certificate");
    let mut is_empty = true;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| fault().with_source(error))?;
        webpki::anchor_from_trusted_cert(&certificate)
            .map_err(|error| fault().with_source(error))?;
        is_empty = false;
    }
    if is_empty { Err(fault()) } else { Ok(pem) }
}

fn read_key(store: &'static str, option: &str, path: &Path) -> Result<Vec<u8>> {
    let pem = read_file(store, option, path)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok(pem),
        Err(error) => Err(unusable(store, option, path, "private key").with_source(error)),
    }
}

fn read_file(store: &'static str, option: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        invalid(store, format!("the file of option `{option}` can't be read"))
            .with_key(path.display().to_string())
            .with_source(error)
    })
}

fn unusable(store: &'static str, option: &str, path: &Path, what: &str) -> Error {
    let detail =
        format!("the file of option `{option}` holds no usable {what}; accepted is a PEM file");
    invalid(store, detail).with_key(path.display().to_string())
}

fn invalid(store: &'static str, detail: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, store, "connect").with_detail(detail)
}

const NEEDS_CA: &str = "TLS needs the option `ca`: a PEM file of the certificates to trust";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Option<TlsConfig>> {
        let mut url = StoreUrl::parse(url)?;
        let config = TlsConfig::from_url(&mut url, "store", Some("stores"))?;
        url.finish()?;
        Ok(config)
    }

    #[test]
    fn a_scheme_or_an_option_asks_for_tls() {
        let plain = TlsConfig::new("1");
        let full = plain.clone().identity("2", "3");
        for (url, expected) in [
            ("store://a", None),
            ("store://a?tls=false", None),
            ("store://a?tls=true&ca=1", Some(&plain)),
            ("stores://a?ca=1", Some(&plain)),
            ("stores://a?tls=true&ca=1&cert=2&key=3", Some(&full)),
        ] {
            assert_eq!(parse(url).unwrap().as_ref(), expected, "{url}");
        }
        let mut url = StoreUrl::parse("stores://a").unwrap();
        assert_eq!(TlsConfig::from_url(&mut url, "store", None).unwrap(), None);
        assert_eq!(full.ca("4"), TlsConfig::new("4").identity("2", "3"));
    }

    #[test]
    fn a_set_that_is_half_given_is_refused() {
        for (url, text) in [
            ("stores://a", "`ca`"),
            ("store://a?tls=true", "`ca`"),
            ("store://a?tls=yes&ca=1", "`true` or `false`"),
            ("stores://a?tls=false&ca=1", "`stores` contradicts"),
            ("store://a?ca=1", "tls=true"),
            ("store://a?cert=1&key=2", "tls=true"),
            ("stores://a?ca=1&cert=1", "needs `key`"),
            ("stores://a?ca=1&key=1", "needs `cert`"),
        ] {
            let error = parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(text), "{url}: {error}");
        }
    }

    #[test]
    fn files_are_read_and_understood() {
        let files = read(CERTIFICATE, Some((CERTIFICATE, KEY))).unwrap();
        assert_eq!(files.ca, CERTIFICATE.as_bytes());
        let (cert, key) = files.identity.clone().unwrap();
        assert_eq!((&*cert, &*key), (CERTIFICATE.as_bytes(), KEY.as_bytes()));
        assert_eq!(format!("{files:?}"), "TlsFiles { .. }");
    }

    #[test]
    fn a_file_that_holds_something_else_is_named() {
        let broken = CERTIFICATE.replace("MIIB", "MIIC");
        for (ca, identity, words) in [
            ("", None, ["`ca`", "certificate", "ca.pem"]),
            (KEY, None, ["`ca`", "certificate", "ca.pem"]),
            (&broken, None, ["`ca`", "certificate", "ca.pem"]),
            (CERTIFICATE, Some((KEY, KEY)), ["`cert`", "certificate", "cert.pem"]),
            (CERTIFICATE, Some((CERTIFICATE, CERTIFICATE)), ["`key`", "private key", "key.pem"]),
        ] {
            let error = read(ca, identity).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(text.contains("accepted is a PEM file"), "{text}");
            assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
        }
        let absent = TlsConfig::new("/no/such/ca.pem").read("store").unwrap_err();
        assert_eq!(absent.key(), Some("/no/such/ca.pem"));
        let mismatch = TlsConfig::new("1").identity("2", "3").mismatch("store", "cause");
        assert_eq!(
            format!("{mismatch:#}"),
            "store connect 3: invalid input: `key` does not belong to `cert`, `2`: cause"
        );
    }

    /// Reads files with these texts, from a folder of their own.
    fn read(ca: &str, identity: Option<(&str, &str)>) -> Result<TlsFiles> {
        let folder = std::env::temp_dir().join(format!("portunus-{:x}", rand::random::<u128>()));
        std::fs::create_dir(&folder).unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).unwrap();
            folder.join(name)
        };
        let mut config = TlsConfig::new(file("ca.pem", ca));
        if let Some((cert, key)) = identity {
            config = config.identity(file("cert.pem", cert), file("key.pem", key));
        }
        let files = config.read("store");
        std::fs::remove_dir_all(&folder).unwrap();
        files
    }

    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUHpPjXqsS/Gl3cJNLTK61zufr8fYwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjExNDU4MTRaGA8yMTI2MTAyODE0NTgx
NFowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABFK0
AAEVKvtQAh6gC2fcPwvXE4AgJfTEA+zqQqXyTN8kPFnRJkoFGfWJqsCuA1+x5GdN
HQPltfh27zD5ImOL47SjUzBRMB0GA1UdDgQWBBTNDwW5+VjIBuoitmnRFCqIQm2f
PzAfBgNVHSMEGDAWgBTNDwW5+VjIBuoitmnRFCqIQm2fPzAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0gAMEUCICJkZS8ts06S/T6Qd0DoHHJdxt7N/674kMEm
OG5PGIYmAiEA+ukRd8GlmHLKgtzwf/mabJyVp9feqKqxVUUxkzYWzG0=
-----END CERTIFICATE-----
";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
}
