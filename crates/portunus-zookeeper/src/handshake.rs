//! What the client library keeps to itself: why a server and this client did not come to speak TLS.

use std::sync::Arc;

use portunus_core::error::{Error, ErrorKind, Result};
use portunus_core::tls::{TlsConfig, TlsFiles};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{Fault, STORE};

/// The same handshake as the client library's, to be tried where that one failed.
pub(crate) struct Handshake(TlsConnector);

impl Handshake {
    /// Prepares it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when `key` does not belong to `cert`, or a file can't be used.
    pub(crate) fn new(tls: &TlsConfig, files: &TlsFiles) -> Result<Self> {
        let unusable = |error: rustls::Error| {
            Error::new(ErrorKind::Invalid, STORE, "connect")
                .with_detail("a TLS file can't be used")
                .with_source(error)
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&files.ca).flatten());
        let config = ClientConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots);
        let identity = files.identity.as_ref().and_then(|(cert, key)| {
            let chain = CertificateDer::pem_slice_iter(cert).flatten().collect();
            Some((chain, PrivateKeyDer::from_pem_slice(key).ok()?))
        });
        let config = match identity {
            Some((chain, key)) => config
                .with_client_auth_cert(chain, key)
                .map_err(|error| tls.mismatch(STORE, error))?,
            None => config.with_no_client_auth(),
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Tries it; the fault that says what was refused, if something was.
    pub(crate) async fn refusal(&self, host: &str) -> Option<Fault> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let name = ServerName::try_from(name.to_owned()).ok()?;
        let stream = TcpStream::connect(host).await.ok()?;
        let refused = match self.0.connect(name, stream).await {
            Err(error) => error,
            // A server says what it thinks of the client's certificate after the handshake.
            Ok(mut stream) => {
                stream.write_all(b"srvr").await.ok()?;
                stream.read_u8().await.err()?
            }
        };
        let refused = refused.downcast::<rustls::Error>().ok()?;
        explain(&refused).map(|detail| Fault::refused(detail, &refused))
    }
}

fn explain(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            Some("the server's certificate is not signed by `ca`, or not for this host")
        }
        rustls::Error::AlertReceived(_) => {
            Some("the server wants a client certificate (`cert`, `key`), or another one")
        }
        rustls::Error::InvalidMessage(_) => Some("the server does not speak TLS on this port"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_without_tls_is_told_from_one_that_is_down() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let files = TlsFiles { ca: Vec::new(), identity: None };
        let handshake = Handshake::new(&TlsConfig::new("none"), &files).unwrap();
        let plain = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"no such thing here").await.unwrap();
        };
        let (refusal, ()) = tokio::join!(handshake.refusal(&host), plain);
        let error = refusal.unwrap().into_error("connect", None);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains("does not speak TLS"), "{error}");
        drop(listener);
        assert!(handshake.refusal(&host).await.is_none());
    }
}
