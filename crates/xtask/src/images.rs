//! Builds the images of the test clusters; only Debian's base image is ever pulled.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{Result, apt, docker, pip, process, root};

/// Builds the images that are missing or whose recipe changed, or all when `rebuild`.
pub(crate) fn ensure(rebuild: bool) -> Result<()> {
    docker::require()?;
    for image in &IMAGES {
        let recipe = image.recipe()?;
        if rebuild || label(image.tag, RECIPE)?.is_none_or(|built| built != recipe) {
            ensure_base()?;
            build(image, &recipe)?;
        }
    }
    Ok(())
}

fn build(image: &Image, recipe: &str) -> Result<()> {
    eprintln!("building {}", image.tag);
    let context = Scratch::new("context")?;
    for file in image.files {
        fs::copy(root().join("docker").join(file), context.0.join(file))?;
    }
    apt::export(&context.0.join("host-apt"))?;
    pip::export(&context.0.join("host-pip"))?;
    // The host's network, so that a proxy on its loopback address can be reached.
    let fixed = ["build", "--network", "host", "--force-rm", "--tag", image.tag];
    let mut command = docker::docker(fixed);
    command.arg("--file").arg(context.0.join(image.files[0]));
    command.args(image.args.iter().flat_map(|arg| ["--build-arg", arg]));
    command.args(["--label", &format!("{RECIPE}={recipe}")]);
    for name in PROXIES.into_iter().filter(|name| std::env::var_os(name).is_some()) {
        // By name alone: docker takes the value from the environment and keeps it from the image.
        command.args(["--build-arg", name]);
    }
    succeed(command.arg(&context.0).stdout(io::stderr()))?;
    // The build stage knew the host's settings.
    let filter = format!("label={STAGE}=build");
    docker::lines(["image", "prune", "--force", "--filter", &filter])?;
    Ok(())
}

/// Pulls the base, once and briefly, else makes it from a Debian archive.
fn ensure_base() -> Result<()> {
    if label(BASE, RECIPE)?.is_some() {
        return Ok(());
    }
    eprintln!("pulling {BASE}");
    match process::run_within(docker::docker(["pull", BASE]).stdout(io::stderr()), PULL_LIMIT) {
        Ok(status) if status.success() => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
        Err(error) => return Err(error.into()),
    }
    eprintln!("{BASE} cannot be pulled: making it from a Debian archive");
    bootstrap().map_err(|error| {
        format!("{error}; or get the base image yourself: `docker pull {BASE}`").into()
    })
}

fn bootstrap() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(format!(
            "making {BASE} with debootstrap needs root: run `cargo xtask images` once as root"
        )
        .into());
    }
    let found = Command::new("debootstrap").arg("--version").stdout(Stdio::null()).status();
    if found.is_err() {
        let install = ["install", "--yes", "--no-install-recommends", "debootstrap"];
        succeed(Command::new("apt-get").arg("update").stdout(io::stderr()))?;
        succeed(Command::new("apt-get").args(install).stdout(io::stderr()))?;
    }
    let tree = Scratch::new("base")?;
    let mirror = apt::mirror();
    let mirror = mirror.as_deref().unwrap_or(apt::PUBLIC_MIRROR);
    // In a mount namespace of its own: what it mounts in the tree goes when it ends, even killed.
    let mut debootstrap = Command::new("unshare");
    debootstrap.args(["--mount", "debootstrap", "--variant=minbase", "trixie"]);
    debootstrap.arg(&tree.0).arg(mirror).env("DPKG_FORCE", "unsafe-io");
    succeed(debootstrap.stdout(io::stderr()))?;
    // debootstrap notes the host's mirror; the image is to know the public one only.
    let public = format!("deb {} trixie main\n", apt::PUBLIC_MIRROR);
    fs::write(tree.0.join("etc/apt/sources.list"), public)?;
    // As in Debian's own: an image that a crash broke is made anew.
    fs::write(tree.0.join("etc/dpkg/dpkg.cfg.d/docker-apt-speedup"), "force-unsafe-io\n")?;

    // "Slim", as Debian's own image of that name.
    let mut tar = Command::new("tar");
    tar.args(["--exclude=./usr/share/doc/*", "--exclude=./usr/share/man/*"]);
    tar.args(["--exclude=./usr/share/locale/*", "--exclude=./var/cache/apt/*"]);
    tar.args(["--exclude=./var/lib/apt/lists/*", "--exclude=./var/log/*", "--create"]);
    let mut tar = tar.arg("--directory").arg(&tree.0).arg(".").stdout(Stdio::piped()).spawn()?;
    let archive = tar.stdout.take().ok_or("BUG: tar's output is a pipe")?;
    // Not supervised, as it has a stdin; a signal ends tar's reader through the broken pipe.
    let mut import = docker::docker(["import", "--change", "CMD [\"bash\"]", "-", BASE]);
    let imported = import.stdin(archive).stdout(Stdio::null()).status()?;
    if !tar.wait()?.success() || !imported.success() {
        return Err(format!("{import:?}: {imported}").into());
    }
    Ok(())
}

/// A label of a local image: `None` without the image, empty without the label.
fn label(image: &str, name: &str) -> Result<Option<String>> {
    let format = format!("{{{{index .Config.Labels {name:?}}}}}");
    let mut inspect = docker::docker(["image", "inspect", "--format", &format, image]);
    let output = docker::output(&mut inspect)?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

/// What an image is made of.
struct Image {
    /// The host part makes a missing image fail at once, instead of a pull.
    tag: &'static str,
    /// The Dockerfile, and what it copies.
    files: &'static [&'static str],
    /// Where one Dockerfile serves several images.
    args: &'static [&'static str],
}

impl Image {
    /// Tells one recipe from another; a new std may hash otherwise, which costs one build.
    fn recipe(&self) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        for file in self.files {
            fs::read(root().join("docker").join(file))?.hash(&mut hasher);
        }
        self.args.hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = process::run(command).map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// A directory that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> io::Result<Self> {
        let name = format!("portunus-xtask-{}-{what}", std::process::id());
        let path: &Path = &std::env::temp_dir().join(name);
        // Not `create_dir_all`: nobody else's directory will do.
        fs::create_dir(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("left behind: {} ({error})", self.0.display());
        }
    }
}

const BASE: &str = "debian:trixie-slim";
const IMAGES: [Image; 6] = [
    Image { tag: "localhost/portunus/etcd:3.5.16", files: &["etcd.Dockerfile"], args: &[] },
    Image {
        tag: "localhost/portunus/zookeeper:3.9.3",
        files: &["zookeeper.Dockerfile"],
        args: &[],
    },
    Image {
        tag: "localhost/portunus/redis:8.0",
        files: &["redis.Dockerfile", "clock.c"],
        args: &[],
    },
    Image {
        tag: "localhost/portunus/valkey:8.1",
        files: &["redis.Dockerfile", "clock.c"],
        args: &["SERVER=valkey", "SERIES=8.1"],
    },
    Image { tag: "localhost/portunus/postgres:17", files: &["postgres.Dockerfile"], args: &[] },
    Image { tag: "localhost/portunus/mariadb:11.8", files: &["mariadb.Dockerfile"], args: &[] },
];
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
const PULL_LIMIT: Duration = Duration::from_secs(10);
const RECIPE: &str = "org.portunus.recipe";
const STAGE: &str = "org.portunus.stage";
