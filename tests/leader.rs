//! The example `leader` as three processes: one leads, it is killed, stopped, terminated, and the
//! others take over in time.

#![cfg(unix)]

mod file;
mod stage;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use stage::{PROMPT, SLACK, Scene, TTL, eventually, on_every_store};

on_every_store! {
    one_of_three_is_ready_and_all_agree_who_leads
    a_killed_leader_is_replaced_within_its_ttl
    a_stopped_leader_finds_itself_deposed_at_its_first_look
    a_terminated_leader_resigns_and_the_next_leads_at_once;
    servers: a_store_that_does_not_answer_leaves_the_service_alive_and_not_ready
}

async fn one_of_three_is_ready_and_all_agree_who_leads(scene: Scene) {
    let services = Services::start(&scene, "30s").await;
    let (leader, term) = services.leads_after(0, PROMPT).await;
    for (number, service) in services.0.iter().enumerate() {
        assert_eq!(service.get("/healthz").await.status, 200);
        assert_eq!(service.ready().await, (number == leader).then_some(term));
    }
    services.agree(leader, term).await;
    services.end().await;
    scene.end().await;
}

async fn a_killed_leader_is_replaced_within_its_ttl(scene: Scene) {
    let mut services = Services::start(&scene, "2s").await;
    let (leader, term) = services.leads_after(0, PROMPT).await;
    let killed = services.0.remove(leader);
    let began = Instant::now();
    killed.signal(Signal::SIGKILL);
    let (next, later) = services.leads_after(term, TTL + SLACK).await;
    println!("after a kill another led in {:?}", began.elapsed());
    services.agree(next, later).await;
    services.end().await;
    scene.end().await;
}

async fn a_stopped_leader_finds_itself_deposed_at_its_first_look(scene: Scene) {
    let mut services = Services::start(&scene, "2s").await;
    let (leader, term) = services.leads_after(0, PROMPT).await;
    let mut stopped = services.0.remove(leader);
    let began = Instant::now();
    scene.stop(|signal| stopped.signal(signal)).await;
    let (_, later) = services.leads_after(term, TTL + SLACK).await;
    println!("after a stop another led in {:?}", began.elapsed());
    // The question lies there when it wakes up.
    let asked = stopped.ask("/readyz").await;
    stopped.signal(Signal::SIGCONT);
    assert_eq!(answer(asked).await.status, 503);
    let losses = scene.losses().iter().map(|why| format!("lost term {term}: {why}"));
    let losses: Vec<String> = losses.collect();
    stopped.says(&losses.iter().map(String::as_str).collect::<Vec<_>>()).await;
    scene.queued(NAME, 3).await;
    assert_eq!(stopped.ready().await, None);
    // It is a candidate like any other, and the last one that is left.
    services.end().await;
    services = Services(vec![stopped]);
    let (_, last) = services.leads_after(later, PROMPT).await;
    services.agree(0, last).await;
    services.end().await;
    scene.end().await;
}

async fn a_terminated_leader_resigns_and_the_next_leads_at_once(scene: Scene) {
    let mut services = Services::start(&scene, "30s").await;
    let mut last = 0;
    while !services.0.is_empty() {
        let (leader, term) = services.leads_after(last, PROMPT).await;
        services.agree(leader, term).await;
        let mut terminated = services.0.remove(leader);
        let began = Instant::now();
        terminated.signal(Signal::SIGTERM);
        if !services.0.is_empty() {
            services.leads_after(term, PROMPT).await;
            println!("after a resignation another led in {:?}", began.elapsed());
        }
        terminated.says(&[&format!("resigned term {term}")]).await;
        terminated.exits().await;
        last = term;
    }
    scene.end().await;
}

async fn a_store_that_does_not_answer_leaves_the_service_alive_and_not_ready(scene: Scene) {
    let mut services = Services::start(&scene, "6s").await;
    let (leader, term) = services.leads_after(0, PROMPT).await;
    scene.pause().await;
    let service = &mut services.0[leader];
    eventually("not ready", async || service.ready().await.map_or(Ok(()), Err)).await;
    let asked = service.get("/leader").await;
    assert_eq!((asked.status, asked.text.contains("retry-after: 1\r\n")), (503, true));
    assert_eq!(service.get("/healthz").await.status, 200);
    // Its work stops in time, but the store does not hear that it resigns; or it is too slow.
    let (unheard, late) = (format!("ended term {term}: "), format!("lost term {term}: Expired"));
    service.says(&[&unheard, &late]).await;
    scene.unpause().await;
    let (leader, later) = services.leads_after(term, Duration::from_secs(30)).await;
    services.agree(leader, later).await;
    services.end().await;
    scene.end().await;
}

/// Processes that run `examples/leader.rs` on one store.
struct Services(Vec<Service>);

impl Services {
    /// Three of them, all of which campaign.
    async fn start(scene: &Scene, ttl: &str) -> Self {
        let mut services = Vec::new();
        for _ in 0..3 {
            services.push(Service::start(&scene.url(ttl)).await);
        }
        scene.queued(NAME, 3).await;
        Self(services)
    }

    /// Waits until one of them is ready in a term above `last`; returns which, and the term.
    async fn leads_after(&self, last: u64, limit: Duration) -> (usize, u64) {
        let ready = async {
            loop {
                for (number, service) in self.0.iter().enumerate() {
                    if let Some(term) = service.ready().await.filter(|term| *term > last) {
                        return (number, term);
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(limit, ready).await.expect("one of them leads in time")
    }

    /// Fails if one of them believes that another one leads.
    async fn agree(&self, leader: usize, term: u64) {
        let leads = format!("term {term} at {}\n", self.0[leader].address);
        for service in &self.0 {
            let answer = service.get("/leader").await;
            assert_eq!((answer.status, answer.body()), (200, leads.as_str()));
        }
    }

    async fn end(self) {
        for service in self.0 {
            service.signal(Signal::SIGTERM);
            service.exits().await;
        }
    }
}

/// One of them; killed when dropped.
struct Service {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Service {
    async fn start(url: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portunus-test-leader"))
            .args([url, "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(LIMIT, stdout.next_line()).await.expect("it starts in time");
        let line = line.unwrap().expect("it lives");
        let address = line.strip_prefix("listening on ").expect("an address").parse().unwrap();
        Self { child, stdout, address }
    }

    /// The term in which it is ready, if it is.
    async fn ready(&self) -> Option<u64> {
        let answer = self.get("/readyz").await;
        match answer.status {
            200 => Some(answer.body().strip_prefix("leading term ")?.trim_end().parse().unwrap()),
            503 => None,
            _ => panic!("{}", answer.text),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.ask(path).await).await
    }

    /// Asks, and does not wait for the answer.
    async fn ask(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let question = format!("GET {path} HTTP/1.1\r\nhost: leader\r\nconnection: close\r\n\r\n");
        stream.write_all(question.as_bytes()).await.unwrap();
        stream
    }

    /// Waits until it prints a line that begins with one of these.
    async fn says(&mut self, wanted: &[&str]) {
        let said = async {
            while let Some(line) = self.stdout.next_line().await.unwrap() {
                if wanted.iter().any(|begin| line.starts_with(begin)) {
                    return;
                }
            }
            panic!("it ended without {wanted:?}");
        };
        timeout(LIMIT, said).await.unwrap_or_else(|_| panic!("it does not say {wanted:?}"));
    }

    async fn exits(mut self) {
        let ended = timeout(LIMIT, self.child.wait()).await;
        assert!(ended.expect("it ends in time").unwrap().success());
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it was not awaited").try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }
}

struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").expect("an end of the headers").1
    }
}

async fn answer(mut stream: TcpStream) -> Answer {
    let mut text = String::new();
    timeout(LIMIT, stream.read_to_string(&mut text)).await.expect("it answers in time").unwrap();
    let status = text.split(' ').nth(1).expect("a status").parse().unwrap();
    Answer { status, text }
}

/// The election of the example.
const NAME: &str = "examples/leader";
/// How long anything may take that no figure is given for.
const LIMIT: Duration = Duration::from_secs(10);
