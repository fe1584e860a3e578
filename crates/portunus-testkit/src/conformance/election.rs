//! Elections: one leader a term, seen by all who look, and work that is over before the next begins.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portunus_core::backend::LockObserver;
use portunus_core::election::{Election, Leader, Leadership, Transition};
use portunus_core::error::{ErrorKind, Result};
use portunus_core::guard::{CancellationToken, LossReason, Released};
use portunus_core::manager::LockManager;
use portunus_core::name::LockName;
use tokio::sync::mpsc;

use super::crowd::{changing, one_is_woken};
use super::stage::Stage;
use super::wait::{PATIENCE, nobody, passed, shown, within};
use crate::tap::Verb;

#[doc(hidden)]
#[macro_export]
macro_rules! __election {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; election:
        one_leads_at_a_time_in_growing_terms
        observers_see_who_leads
        a_published_value_is_seen
        publishing_after_a_loss_is_refused
        a_value_over_the_limit_is_refused
        an_evicted_candidate_is_not_elected
        a_cancelled_campaign_leaves_nothing
        an_observer_outlives_the_session_of_its_manager
        work_ends_before_the_next_one_leads
        work_that_does_not_stop_is_dropped
        an_evicted_leader_s_work_stops_and_it_campaigns_again
        a_change_of_leader_wakes_one_candidate
    } };
}

/// One candidate leads, the next one when it has resigned, in a term that is larger; the term is
/// the fencing token, and an election is the exclusive lock of its name.
pub async fn one_leads_at_a_time_in_growing_terms(stage: &Stage) {
    let name = stage.name("election");
    let managers = [stage.manager().await, stage.manager().await];
    let election = managers[1].election(&name).unwrap();
    assert_eq!(election.leader().await.unwrap(), None);
    let mut leads = campaign(&managers[0], &name, "0").await;
    for at in 1..5 {
        let (next, value) = (managers[at % 2].election(&name).unwrap(), at.to_string());
        let candidate = tokio::spawn(async move { next.campaign(value).await });
        stage.standing(&name, 2).await;
        assert!(managers[at % 2].lock(&name).unwrap().try_acquire().await.unwrap().is_none());
        let leader = election.leader().await.unwrap().expect("one leads");
        assert_eq!((leader.value, leader.term), ((at - 1).to_string(), leads.term()));
        assert!(leads.is_held() && leads.is_fresh() && !candidate.is_finished());
        let term = leads.term();
        assert_eq!(leads.resign().await.unwrap(), Released::Clean);
        leads = within(PATIENCE, "the next one leads", candidate).await.unwrap().unwrap();
        assert!(leads.term() > term, "{} after {term}", leads.term());
        let holder = stage.standing(&name, 1).await.remove(0);
        assert!(holder.token.is_none_or(|token| token == leads.term().value()));
    }
    let term = leads.term();
    assert_eq!(leads.resign().await.unwrap(), Released::Clean);
    assert_eq!(election.leader().await.unwrap(), None);
    let guard = managers[0].lock(&name).unwrap().acquire().await.unwrap();
    assert!(guard.token() > term);
}

/// An observer sees the present leader first, or that there is none; then each change that lasts,
/// in growing terms, with value and holder.
pub async fn observers_see_who_leads(stage: &Stage) {
    let name = stage.name("election");
    let managers = [stage.manager().await, stage.manager().await];
    let mut early = managers[1].election(&name).unwrap().observe();
    assert_eq!(within(PATIENCE, "an answer", early.next()).await.unwrap().unwrap(), None);
    let first = campaign(&managers[0], &name, "first").await;
    let mut late = managers[1].election(&name).unwrap().observe();
    let seen = within(PATIENCE, "an answer", late.next()).await.unwrap().unwrap();
    let leader = seen.expect("the present leader comes first");
    assert_eq!((&*leader.value, &leader.term), ("first", &first.term()));
    let holder = leader.holder.as_ref().expect("it says who it is");
    assert_eq!((holder.pid, &*holder.app), (std::process::id(), "conformance"));
    assert_eq!(shown(&mut early, "first").await, leader);
    let next = managers[1].election(&name).unwrap();
    let second = tokio::spawn(async move { next.campaign("second").await });
    stage.standing(&name, 2).await;
    first.resign().await.unwrap();
    let second = within(PATIENCE, "the second leads", second).await.unwrap().unwrap();
    for seen in [&mut early, &mut late] {
        assert_eq!(shown(seen, "second").await.term, second.term());
    }
    drop(second);
    for seen in [&mut early, &mut late] {
        nobody(seen).await;
    }
}

/// What a leader publishes is what observers and those who ask see, in the same term.
pub async fn a_published_value_is_seen(stage: &Stage) {
    let name = stage.name("election");
    let leads = campaign(&stage.manager().await, &name, "").await;
    let election = stage.manager().await.election(&name).unwrap();
    let mut seen = election.observe();
    assert_eq!(shown(&mut seen, "").await.term, leads.term());
    for value in ["one", "two \"ü\"\n", "", "three"] {
        leads.publish(value).await.unwrap();
        let leader = shown(&mut seen, value).await;
        assert_eq!(leader.term, leads.term());
        assert_eq!(election.leader().await.unwrap(), Some(leader));
    }
    stage.standing(&name, 1).await;
    assert_eq!(leads.resign().await.unwrap(), Released::Clean);
}

/// One who leads no more can't publish: that is an error of kind `Lost`, and observers do not see
/// the value, whether the entry was removed by another's hand or the session ended.
pub async fn publishing_after_a_loss_is_refused(stage: &Stage) {
    for evicted in [true, false] {
        let name = stage.name(if evicted { "evicted" } else { "ended" });
        let backend = stage.backend().await;
        let manager = stage.builder(&backend).open().await.unwrap();
        let rival = stage.manager().await;
        let mut seen = rival.election(&name).unwrap().observe();
        let leads = campaign(&manager, &name, "before").await;
        shown(&mut seen, "before").await;
        if evicted {
            let entry = stage.standing(&name, 1).await.remove(0).entry;
            assert!(stage.observer().evict(&name, &entry).await.unwrap());
        } else {
            stage.end_session(&backend.session()).await;
        }
        stage.standing(&name, 0).await;
        let refused = within(PATIENCE, "an answer", leads.publish("too late")).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
        within(PATIENCE, "the loss is told", leads.lost()).await;
        assert!(!leads.is_held() && !leads.is_fresh());
        let refused = leads.publish("later still").await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
        let next = campaign(&rival, &name, "next").await;
        assert!(next.term() > leads.term());
        // Whatever comes before it is no value that was refused.
        let is_next = |leader: Option<&Leader>| leader.is_some_and(|leader| leader.value == "next");
        assert_eq!(passed(&mut seen, is_next).await.0, Vec::<String>::new());
        let leader = rival.election(&name).unwrap().leader().await.unwrap();
        assert_eq!(leader.expect("one leads").value, "next");
    }
}

/// A value of as many bytes as the store says is taken; one byte more is `Invalid`, and then
/// nothing is queued, or the old value stands.
pub async fn a_value_over_the_limit_is_refused(stage: &Stage) {
    let name = stage.name("election");
    let election = stage.manager().await.election(&name).unwrap();
    let max = stage.capabilities().max_value;
    // The limit is of bytes, not of letters.
    let longest =
        |letter: &str| letter.repeat(max / letter.len()) + &"x".repeat(max % letter.len());
    let refused = election.campaign(longest("ü") + "x").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains(&max.to_string()), "{refused}");
    assert!(stage.observer().queue(&name).await.unwrap().is_empty());
    let leads = within(PATIENCE, "it leads", election.campaign(longest("ü"))).await.unwrap();
    let value = async || election.leader().await.unwrap().expect("one leads").value;
    assert!(value().await == longest("ü"), "another value is seen");
    leads.publish(longest("é")).await.unwrap();
    let refused = leads.publish(longest("ü") + "x").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(value().await == longest("é"), "the old value does not stand");
    assert!(leads.is_held());
}

/// A candidate whose entry was removed while it waits is not elected, also if it hears of it only
/// when nobody stands before it any more: the error is of kind `Lost`.
pub async fn an_evicted_candidate_is_not_elected(stage: &Stage) {
    for deaf in [false, true] {
        let name = stage.name(if deaf { "deaf" } else { "hears" });
        let leads = campaign(&stage.manager().await, &name, "leader").await;
        let backend = stage.backend().await;
        let candidate = stage.builder(&backend).open().await.unwrap().election(&name).unwrap();
        let candidate = tokio::spawn(async move { candidate.campaign("evicted").await });
        let entry = stage.standing(&name, 2).await.remove(1).entry;
        changing(&backend, 1).await;
        if deaf {
            backend.cut();
        }
        assert!(stage.observer().evict(&name, &entry).await.unwrap());
        if deaf {
            assert_eq!(leads.resign().await.unwrap(), Released::Clean);
            stage.standing(&name, 0).await;
            backend.pass_on();
        }
        let refused = within(PATIENCE, "the candidate learns it", candidate).await.unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Lost);
        assert_eq!(backend.calls(Verb::Enter), 1);
        stage.standing(&name, usize::from(!deaf)).await;
    }
}

/// A campaign that is dropped while it waits leaves no candidate, and neither does a leadership
/// that is dropped, nor a service's part that is dropped while it leads.
pub async fn a_cancelled_campaign_leaves_nothing(stage: &Stage) {
    let name = stage.name("election");
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let leads = campaign(&manager, &name, "leader").await;
    let before = stage.standing(&name, 1).await;
    let election = rival.election(&name).unwrap();
    let candidate = tokio::spawn(async move { election.campaign("cancelled").await.map(drop) });
    stage.standing(&name, 2).await;
    candidate.abort();
    assert_eq!(stage.standing(&name, 1).await, before);
    drop(leads);
    stage.standing(&name, 0).await;
    let (election, (tell, mut began)) = (rival.election(&name).unwrap(), mpsc::unbounded_channel());
    let service = tokio::spawn(async move {
        let work = |_| {
            tell.send(()).unwrap();
            std::future::pending()
        };
        election.run("service", work).await
    });
    within(PATIENCE, "the work begins", began.recv()).await.unwrap();
    assert!(stage.standing(&name, 1).await[0].holds);
    service.abort();
    stage.standing(&name, 0).await;
    assert!(campaign(&manager, &name, "next").await.is_held());
}

/// The stream of an observer goes on when the session of its manager has ended.
pub async fn an_observer_outlives_the_session_of_its_manager(stage: &Stage) {
    let name = stage.name("election");
    let backend = stage.backend().await;
    let observing = stage.builder(&backend).open().await.unwrap();
    let mut seen = observing.election(&name).unwrap().observe();
    let manager = stage.manager().await;
    let leads = campaign(&manager, &name, "before").await;
    let before = shown(&mut seen, "before").await;
    // A guard tells when the manager knows.
    let guard = observing.lock(stage.name("lock")).unwrap().acquire().await.unwrap();
    stage.end_session(&backend.session()).await;
    within(2 * PATIENCE, "the session's end is known", guard.lost()).await;
    leads.publish("between").await.unwrap();
    assert_eq!(shown(&mut seen, "between").await.term, before.term);
    leads.resign().await.unwrap();
    let leads = campaign(&manager, &name, "after").await;
    assert_eq!(shown(&mut seen, "after").await.term, leads.term());
    drop(leads);
    nobody(&mut seen).await;
}

/// A service that shuts down tells its work to stop and awaits it; only then does it resign, and
/// another's work begins.
pub async fn work_ends_before_the_next_one_leads(stage: &Stage) {
    let name = stage.name("election");
    let (tell, mut began) = mpsc::unbounded_channel();
    let working = Arc::new(AtomicBool::new(false));
    let mut services = Vec::new();
    for at in 0..3 {
        let election = stage.manager().await.election(&name).unwrap();
        let (shutdown, tell) = (CancellationToken::new(), tell.clone());
        let (until, working) = (shutdown.clone(), Arc::clone(&working));
        services.push((
            shutdown,
            tokio::spawn(async move {
                let work = |leadership: Arc<Leadership>| {
                    let (tell, alone) = (tell.clone(), Alone::new(&working));
                    async move {
                        tell.send((at, alone.is_some())).unwrap();
                        leadership.cancellation_token().cancelled().await;
                        // It has something to finish, and leads until then.
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        assert!(leadership.is_held());
                        drop(alone);
                    }
                };
                election.run(at.to_string(), work).until(until).await
            }),
        ));
        stage.standing(&name, at + 1).await;
    }
    let mut services: Vec<_> = services.into_iter().map(Some).collect();
    for next in 0..3 {
        let (at, alone) = within(PATIENCE, "the work begins", began.recv()).await.unwrap();
        assert!(alone, "{at} was not alone");
        assert!(at == next || !stage.capabilities().fifo, "{at} began, and not {next}");
        let (shutdown, service) = services[at].take().expect("it begins once");
        shutdown.cancel();
        within(PATIENCE, "the service ends", service).await.unwrap().unwrap();
    }
    stage.standing(&name, 0).await;
}

/// Work that was told to stop and has not after its grace is dropped, and then the next one leads.
pub async fn work_that_does_not_stop_is_dropped(stage: &Stage) {
    let name = stage.name("election");
    let working = Arc::new(AtomicBool::new(false));
    let (election, shutdown) =
        (stage.manager().await.election(&name).unwrap(), CancellationToken::new());
    let (until, alone) = (shutdown.clone(), Alone::new(&working));
    let service = tokio::spawn(async move {
        let mut alone = alone;
        let work = |_| {
            let alone = alone.take();
            async move {
                std::future::pending::<()>().await;
                drop(alone);
            }
        };
        election.run("stubborn", work).stop_grace(Duration::from_millis(50)).until(until).await
    });
    stage.standing(&name, 1).await;
    let next = stage.manager().await.election(&name).unwrap();
    let next = tokio::spawn(async move { next.campaign("next").await });
    stage.standing(&name, 2).await;
    assert!(working.load(Ordering::SeqCst));
    shutdown.cancel();
    let leads = within(PATIENCE, "the next one leads", next).await.unwrap().unwrap();
    assert!(!working.load(Ordering::SeqCst), "the work goes on");
    within(PATIENCE, "the service ends", service).await.unwrap().unwrap();
    leads.resign().await.unwrap();
}

/// When its entry is removed by another's hand, a service's work is told to stop, and it campaigns
/// again: the next term is larger, and each change was told in turn.
pub async fn an_evicted_leader_s_work_stops_and_it_campaigns_again(stage: &Stage) {
    let name = stage.name("election");
    let election = stage.manager().await.election(&name).unwrap();
    let (tell, mut began) = mpsc::unbounded_channel();
    let (shutdown, told) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let (until, telling) = (shutdown.clone(), Arc::clone(&told));
    let service = tokio::spawn(async move {
        let work = |leadership: Arc<Leadership>| {
            tell.send(leadership.term()).unwrap();
            async move { leadership.cancellation_token().cancelled().await }
        };
        let note = |transition| telling.lock().unwrap().push(transition);
        election.run("service", work).on_transition(note).until(until).await
    });
    let first = within(PATIENCE, "the work begins", began.recv()).await.unwrap();
    let entry = stage.standing(&name, 1).await.remove(0).entry;
    assert!(stage.observer().evict(&name, &entry).await.unwrap());
    let second = within(PATIENCE, "it leads again", began.recv()).await.unwrap();
    assert!(second > first);
    shutdown.cancel();
    within(PATIENCE, "the service ends", service).await.unwrap().unwrap();
    stage.standing(&name, 0).await;
    let evicted = Released::AlreadyLost(LossReason::Evicted);
    let told = told.lock().unwrap();
    assert!(
        matches!(&told[..], [
            Transition::Elected(one),
            Transition::Resigned { term: ended, released: Ok(released) },
            Transition::Elected(two),
            Transition::Resigned { released: Ok(Released::Clean), .. },
        ] if (one, ended, two) == (&first, &first, &second) && *released == evicted),
        "{told:?}"
    );
}

/// A change of leader wakes one candidate: where the store pushes, it costs the same few requests
/// however many wait.
pub async fn a_change_of_leader_wakes_one_candidate(stage: &Stage) {
    async fn campaign(manager: LockManager, name: LockName) -> Result<Leadership> {
        manager.election(name)?.campaign("candidate").await
    }
    one_is_woken(stage, campaign, Leadership::resign).await;
}

async fn campaign(manager: &LockManager, name: &LockName, value: &str) -> Leadership {
    let election: Election = manager.election(name).unwrap();
    within(PATIENCE, "it leads", election.campaign(value)).await.unwrap()
}

/// Says that work is under way, until it is dropped; `None` when other work is.
struct Alone(Arc<AtomicBool>);

impl Alone {
    fn new(working: &Arc<AtomicBool>) -> Option<Self> {
        let alone = !working.swap(true, Ordering::SeqCst);
        alone.then(|| Self(Arc::clone(working)))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
