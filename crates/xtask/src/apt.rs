//! How this host reaches a Debian archive: mirror, proxy, CA and passwords, for the image builds.
//!
//! A host behind a proxy or a private mirror has all that in `/etc/apt`. It is read when a build
//! runs, put into the build's context, and stays out of the image and of the repository.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The public archive, where the host names none.
pub(crate) const PUBLIC_MIRROR: &str = "http://deb.debian.org/debian";

/// The archive that the host itself uses, if it is a Debian one.
pub(crate) fn mirror() -> Option<String> {
    source_uris().into_iter().find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
}

/// Writes `apt.conf`, and the files that it names, into `dir`, which the build sees as
/// `/run/host-apt`.
pub(crate) fn export(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    // The build's apt runs as root throughout: its usual user could not read the passwords.
    let mut conf = String::from("APT::Sandbox::User \"root\";\n");
    if let Some(bundle) = ca_bundle() {
        fs::copy(bundle, dir.join("ca.crt"))?;
        conf.push_str("Acquire::https::CAInfo \"/run/host-apt/ca.crt\";\n");
    }
    let settings = Command::new("apt-config").args(["dump", "Acquire"]).output();
    let settings = settings.map(|output| output.stdout).unwrap_or_default();
    for (n, line) in String::from_utf8_lossy(&settings).lines().enumerate() {
        let Some((key, value)) = line.trim_end_matches("\";").split_once(" \"") else { continue };
        if !FORWARDED.iter().any(|prefix| key.starts_with(prefix)) || key.contains("Auto-Detect") {
            continue;
        }
        // Certificates and keys are named by their path on the host.
        let value = if Path::new(value).is_file() {
            let name = format!("file-{n}");
            fs::copy(value, dir.join(&name))?;
            format!("/run/host-apt/{name}")
        } else {
            value.to_owned()
        };
        writeln!(conf, "{key} \"{value}\";")?;
    }
    let passwords: String = files("/etc/apt/auth.conf.d", "conf")
        .into_iter()
        .chain([PathBuf::from("/etc/apt/auth.conf")])
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|text| text + "\n")
        .collect();
    fs::write(dir.join("auth.conf"), passwords)?;
    conf.push_str("Dir::Etc::netrc \"/run/host-apt/auth.conf\";\n");
    if let Some(mirror) = mirror() {
        fs::write(dir.join("sources.list"), sources(&mirror))?;
        conf.push_str("Dir::Etc::sourcelist \"/run/host-apt/sources.list\";\n");
        conf.push_str("Dir::Etc::sourceparts \"/dev/null\";\n");
    }
    fs::write(dir.join("apt.conf"), conf)?;
    Ok(())
}

/// The host's mirror with the release that the images are made of.
fn sources(mirror: &str) -> String {
    let signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let mut text = format!(
        "deb {signed} {mirror} trixie main\n\
         deb {signed} {mirror} trixie-updates main\n"
    );
    let security =
        source_uris().into_iter().find(|uri| uri.trim_end_matches('/').ends_with("-security"));
    if let Some(uri) = security {
        text.push_str(&format!("deb {signed} {uri} trixie-security main\n"));
    }
    text
}

/// Every address in the host's apt sources, in both of their formats.
fn source_uris() -> Vec<String> {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    paths.extend(files("/etc/apt/sources.list.d", "list"));
    paths.extend(files("/etc/apt/sources.list.d", "sources"));
    let texts = paths.into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let mut uris = Vec::new();
    for text in texts {
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| line.starts_with("deb ") || line.starts_with("URIs:")) {
            let words = line.split_whitespace();
            uris.extend(words.filter(|word| word.contains("://")).map(str::to_owned));
        }
    }
    uris
}

/// The CA certificates that this host trusts, its own among them.
pub(crate) fn ca_bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain([SYSTEM_CAS.into()]).find(|path| path.is_file())
}

fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension() == Some(OsStr::new(extension))).collect()
}

/// The settings that say how to reach an archive; the others are the host's own business.
const FORWARDED: [&str; 5] = [
    "Acquire::Check-",
    "Acquire::ForceIPv",
    "Acquire::Retries",
    "Acquire::http::",
    "Acquire::https::",
];
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";
