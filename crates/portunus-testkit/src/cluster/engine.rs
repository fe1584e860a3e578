//! The container engine, seen from the one runtime on which all work with it is done.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use testcontainers::bollard::Docker;
use testcontainers::bollard::models::NetworkCreateRequest;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

use super::{Error, Result};

/// Marks everything that a test started.
pub(super) const TEST: &str = "org.portunus.test";
/// The process whose end makes it garbage.
pub(super) const OWNER: &str = "org.portunus.owner";
/// The cluster that it belongs to.
pub(super) const CLUSTER: &str = "org.portunus.cluster";

/// Runs engine work to its end, even if the caller loses interest.
pub(super) async fn run<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match RUNTIME.spawn(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The same from a destructor: blocks until the work is done.
pub(super) fn run_blocking(work: impl Future<Output = ()> + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    RUNTIME.spawn(async move {
        work.await;
        // Received below.
        done.send(()).ok();
    });
    // An error is a panic over there, which has been printed.
    let wait = || ended.recv().ok();
    // A worker of a runtime, ours included, hands its tasks over before it blocks.
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        _ => wait(),
    };
}

/// The engine's client, as testcontainers found and configured it.
pub(super) async fn client() -> Result<Docker> {
    let client = testcontainers::core::client::docker_client_instance().await;
    client.map_err(Error::engine("answer"))
}

/// The labels of everything in a cluster.
pub(super) fn labels(cluster: &str) -> HashMap<String, String> {
    [(TEST, "1"), (OWNER, &std::process::id().to_string()), (CLUSTER, cluster)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Makes a cluster's network, which testcontainers would leave without labels.
pub(super) async fn create_network(docker: &Docker, cluster: &str) -> Result<()> {
    let request = NetworkCreateRequest {
        name: cluster.to_owned(),
        labels: Some(labels(cluster)),
        ..NetworkCreateRequest::default()
    };
    let created = docker.create_network(request).await;
    created.map(drop).map_err(Error::engine("create a network"))
}

/// Removes what processes left that are gone by now.
pub(super) async fn sweep(docker: &Docker) -> Result<()> {
    remove_where(docker, &format!("{TEST}=1"), |owner| !is_alive(owner)).await
}

/// Removes one cluster of this process.
pub(super) async fn remove(docker: &Docker, cluster: &str) -> Result<()> {
    remove_where(docker, &format!("{CLUSTER}={cluster}"), |_| true).await
}

/// Removes what has a label and an owner, containers first: they keep their network.
///
/// What cannot be removed is left to the next sweep: another process may be at it, too.
async fn remove_where(docker: &Docker, label: &str, chosen: fn(&str) -> bool) -> Result<()> {
    let filter = HashMap::from([("label", vec![label])]);
    let chosen = |labels: &Option<HashMap<String, String>>| {
        labels.as_ref().and_then(|labels| labels.get(OWNER)).is_none_or(|owner| chosen(owner))
    };

    let list = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
    let containers = docker.list_containers(Some(list)).await;
    let containers = containers.map_err(Error::engine("list containers"))?;
    let removals = containers.into_iter().filter(|found| chosen(&found.labels)).map(|found| {
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        async move { docker.remove_container(&found.id.unwrap_or_default(), Some(force)).await }
    });
    futures_util::future::join_all(removals).await;

    let list = ListNetworksOptionsBuilder::new().filters(&filter).build();
    let networks = docker.list_networks(Some(list)).await;
    let networks = networks.map_err(Error::engine("list networks"))?;
    for found in networks.into_iter().filter(|found| chosen(&found.labels)) {
        docker.remove_network(&found.id.unwrap_or_default()).await.ok();
    }
    Ok(())
}

fn is_alive(owner: &str) -> bool {
    let pid = owner.parse().ok().and_then(Pid::from_raw);
    // A zombie has ended, too; it shows on Linux only.
    let stat = fs::read_to_string(format!("/proc/{owner}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
        && !state.is_some_and(|state| state.starts_with('Z'))
}

/// A port that is free now and stays so while its node is down.
///
/// The system gives ephemeral ports to outgoing connections, those of a client that waits for
/// the very node among them; below that range a port stays free unless a server asks for it.
pub(super) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes begin in different places, so that they rarely meet.
    let start = u16::try_from(std::process::id() % u32::from(PORTS.1)).unwrap_or_default();
    for _ in 0..PORTS.1 {
        let offset = start.wrapping_mul(7).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.0 + offset % PORTS.1;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::engine("find a free port")("all of them are taken"))
}

/// The first port, and how many follow: below the ephemeral ports of Linux, macOS and Windows.
const PORTS: (u16, u16) = (20_000, 12_000);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).thread_name("cluster").enable_all();
    builder.build().expect("BUG: a runtime needs two threads and no more")
});
