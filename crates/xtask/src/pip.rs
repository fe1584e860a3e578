//! How this host reaches a Python index: address, proxy and CA, for the image builds.
//!
//! Read from pip's configuration and environment when a build runs, put into the build's context,
//! and kept out of the image and of the repository, as in `apt`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Result, apt};

/// Writes `pip.conf`, and the files that it names, into `dir`, which the build sees as
/// `/run/host-pip`.
pub(crate) fn export(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let mut settings = settings();
    if let Some(bundle) = apt::ca_bundle() {
        settings.entry("cert".to_owned()).or_insert_with(|| bundle.display().to_string());
    }
    let mut conf = String::from("[global]\n");
    for (key, mut value) in settings {
        if CERTIFICATES.contains(&key.as_str()) {
            fs::copy(&value, dir.join(&key))?;
            value = format!("/run/host-pip/{key}");
        }
        conf.push_str(&format!("{key} = {value}\n"));
    }
    fs::write(dir.join("pip.conf"), conf)?;
    Ok(())
}

/// The settings that say how to reach an index; as in pip, a variable overrides a file.
fn settings() -> BTreeMap<String, String> {
    let listed = Command::new("python3").args(["-m", "pip", "config", "list"]).output();
    let listed = listed.map(|output| output.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed);
    // `global.index-url='https://…'`, with `\n` between several values.
    let files = listed.lines().filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim_matches(['\'', '"']).replace("\\n", " ");
        Some((key.rsplit_once('.')?.1.to_owned(), value))
    });
    let variables = std::env::vars().filter_map(|(name, value)| {
        Some((name.strip_prefix("PIP_")?.to_lowercase().replace('_', "-"), value))
    });
    let all = files.chain(variables);
    all.filter(|(key, value)| FORWARDED.contains(&key.as_str()) && !value.is_empty()).collect()
}

/// Those that name a file of the host.
const CERTIFICATES: [&str; 2] = ["cert", "client-cert"];
/// The other settings are the host's own business.
const FORWARDED: [&str; 9] = [
    "cert",
    "client-cert",
    "default-timeout",
    "extra-index-url",
    "index-url",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
];
