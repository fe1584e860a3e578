//! How a server is reached, wherever it is: credentials, database and certificates.

use portunus_core::error::Result;
use portunus_core::tls::TlsConfig;
use redis::io::tcp::TcpSettings;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates,
};

use crate::config::invalid;
use crate::error::STORE;

/// What the clients of all servers have in common.
#[derive(Clone)]
pub(crate) struct Dial {
    settings: RedisConnectionInfo,
    tls: Option<(TlsConfig, TlsCertificates)>,
}

impl Dial {
    /// Reads and checks the TLS files.
    pub(crate) fn new(settings: RedisConnectionInfo, tls: Option<&TlsConfig>) -> Result<Self> {
        let Some(tls) = tls else { return Ok(Self { settings, tls: None }) };
        let files = tls.read(STORE)?;
        let client_tls = files
            .identity
            .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let certificates = TlsCertificates { client_tls, root_cert: Some(files.ca) };
        Ok(Self { settings, tls: Some((tls.clone(), certificates)) })
    }

    /// The same without a login and a database.
    pub(crate) fn anonymous(&self) -> Self {
        Self { settings: RedisConnectionInfo::default(), tls: self.tls.clone() }
    }

    /// A client of the server at an address.
    pub(crate) fn server(&self, host: &str, port: u16) -> Result<Client> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = match self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let unusable = |error| match &self.tls {
            Some((tls, _)) => tls.mismatch(STORE, error),
            None => invalid("the address can't be used").with_source(error),
        };
        let info = address.into_connection_info().map_err(unusable)?;
        // Many share a connection: what one asks for does not wait until another's bytes were received.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(self.settings.clone()).set_tcp_settings(tcp);
        let client = match &self.tls {
            Some((_, certificates)) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        };
        client.map_err(unusable)
    }
}
