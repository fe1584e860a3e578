//! A certificate authority for one cluster, with the certificates of its servers and clients.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

use super::{Error, Result};

/// How clients reach the nodes. Peers always talk in the clear, on a network of their own.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tls {
    /// In the clear.
    #[default]
    Off,
    /// The server shows a certificate.
    Server,
    /// Both sides show one.
    Mutual,
}

/// The files that a client needs, in a directory that goes with this value.
#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
    pub(super) server: Pair,
    client: Pair,
    ca: String,
}

impl Certificates {
    /// The certificate of the authority that signed all others.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// A client's certificate.
    pub fn client_certificate(&self) -> PathBuf {
        self.dir.join("client.crt")
    }

    /// The key of the client's certificate.
    pub fn client_key(&self) -> PathBuf {
        self.dir.join("client.key")
    }

    /// For servers that their network knows by `names`, and this machine as itself.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self> {
        let issuer = authority().map_err(Error::engine("make a certificate authority"))?;
        let names: Vec<&str> = ["localhost", "127.0.0.1"].into_iter().chain(names).collect();
        let signed = || {
            let server = sign(&issuer, &names)?;
            Ok::<_, rcgen::Error>((server, sign(&issuer, &["portunus-client"])?))
        };
        let (server, client) = signed().map_err(Error::engine("sign certificates"))?;
        let dir = directory().map_err(Error::engine("make a directory for certificates"))?;
        let made = Self { dir, server, client, ca: issuer.pem() };
        made.write().map_err(Error::engine("write certificates"))?;
        Ok(made)
    }

    /// Everything but the authority's key, by the names that the files have everywhere.
    pub(super) fn files(&self) -> [(&'static str, &String); 5] {
        [
            ("ca.crt", &self.ca),
            ("server.crt", &self.server.certificate),
            ("server.key", &self.server.key),
            ("client.crt", &self.client.certificate),
            ("client.key", &self.client.key),
        ]
    }

    fn write(&self) -> io::Result<()> {
        fs::write(self.ca(), &self.ca)?;
        fs::write(self.client_certificate(), &self.client.certificate)?;
        fs::write(self.client_key(), &self.client.key)
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // It holds nothing of worth, and the system empties its own temporary directory.
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// A certificate and its key, in PEM.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Portunus test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn sign(issuer: &CertifiedIssuer<'_, KeyPair>, names: &[&str]) -> Result<Pair, rcgen::Error> {
    let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
    let mut params = CertificateParams::new(names)?;
    // No user is of this name: with authentication on, etcd takes a common name for a user.
    params.distinguished_name.push(DnType::CommonName, "portunus");
    // Both uses: etcd's own gateway shows the server's certificate as a client.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?.pem();
    Ok(Pair { certificate, key: key.serialize_pem() })
}

fn directory() -> io::Result<PathBuf> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("portunus-certificates-{}-{count}", std::process::id());
    let path = std::env::temp_dir().join(name);
    // One of an earlier process with this number.
    fs::remove_dir_all(&path).or_else(ignore_missing)?;
    private_directory(&path)?;
    Ok(path)
}

fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(unix)]
fn private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn private_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}
