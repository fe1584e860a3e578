//! Names: the same ones legal on every store, and no two that meet.

use std::collections::BTreeSet;

use portunus_core::backend::LockObserver;
use portunus_core::error::ErrorKind;
use portunus_core::name::LockName;

use super::stage::Stage;

#[doc(hidden)]
#[macro_export]
macro_rules! __naming {
    ([$($then:tt)+] $($context:tt)*) => { $($then)+! { $($context)*; naming:
        names_are_compared_byte_by_byte
        names_that_a_store_could_confuse_never_meet
        names_may_have_512_bytes
        bad_names_are_refused
    } };
}

/// Case, Unicode form, spaces and control characters tell names apart.
pub async fn names_are_compared_byte_by_byte(stage: &Stage) {
    let names = [
        "lock",
        "Lock",
        "LOCK",
        "lock ",
        " lock",
        "lock\n",
        "lock\t",
        "lock\u{7f}",
        "ß",
        "ss",
        "é",
        "e\u{301}",
        "ﬁ",
        "fi",
        "🔒",
        "замок",
        "锁",
        "\u{200b}lock",
        "K",
        "\u{212a}",
    ];
    let names = names.map(|name| stage.name(name));
    hold_all_at_once(stage, &names).await;
}

/// Separators, escapes, wildcards and dots are part of a name like any other character.
pub async fn names_that_a_store_could_confuse_never_meet(stage: &Stage) {
    let names = [
        "a",
        "a/",
        "a/b",
        "a//b",
        "a/b/",
        "/a",
        "a%2Fb",
        "a%2fb",
        "a%252Fb",
        "a\\b",
        "a:b",
        "a.b",
        "a/../a",
        "a/.",
        "a*",
        "a?",
        "a_",
        "a%",
        "a'",
        "a\"",
        "{a}",
        "a-0000000001",
        "a-lock-0",
    ];
    let mut names = Vec::from(names.map(|name| stage.name(name)));
    // As a whole name, beside one that is their parent.
    let whole = [".", "..", "%2E", "/", "//", "%", "*", "locks", ".ended", ".portunus"];
    names.extend(whole.map(|name| stage.exactly(name)));
    names.push(stage.exactly(stage.prefix()));
    hold_all_at_once(stage, &names).await;
}

/// The longest name works on every store, and its last byte counts.
pub async fn names_may_have_512_bytes(stage: &Stage) {
    let of = |letter: &str, last: &str| {
        let room = LockName::MAX_BYTES - stage.prefix().len() - 1 - last.len();
        let letters = letter.repeat(room / letter.len());
        let filler = "-".repeat(room % letter.len());
        stage.name(&format!("{filler}{letters}{last}"))
    };
    // A store that escapes them makes three bytes of each of the second and third kind.
    let names =
        [of("x", "y"), of("x", "z"), of("/", "y"), of("/", "z"), of("ü", "y"), of("ü", "z")];
    assert!(names.iter().all(|name| name.as_str().len() == LockName::MAX_BYTES));
    hold_all_at_once(stage, &names).await;
}

/// A name that no store could keep is `Invalid`, and the error says what is accepted.
pub async fn bad_names_are_refused(stage: &Stage) {
    let manager = stage.manager().await;
    for name in ["", "a\0b", &"x".repeat(513), &"ü".repeat(257)] {
        for error in [manager.lock(name).unwrap_err(), manager.contenders(name).await.unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("accepted are 1 to 512 bytes"), "{error}");
        }
    }
}

/// Holds all names together; each then has one entry, is taken for others, and is listed as it was
/// written.
async fn hold_all_at_once(stage: &Stage, names: &[LockName]) {
    let (manager, rival) = (stage.manager().await, stage.manager().await);
    let mut guards = Vec::new();
    for name in names {
        let tried = manager.lock(name).unwrap().try_acquire().await.unwrap();
        guards.push(tried.unwrap_or_else(|| panic!("{name:?} meets another name")));
    }
    for name in names {
        assert_eq!(stage.observer().contenders(name).await.unwrap().len(), 1, "{name:?}");
        assert!(rival.lock(name).unwrap().try_acquire().await.unwrap().is_none(), "{name:?}");
    }
    let expected: BTreeSet<_> = names.iter().cloned().collect();
    assert_eq!(expected.len(), names.len(), "BUG: a name is there twice");
    for prefix in ["".to_owned(), stage.prefix().to_owned(), format!("{}/", stage.prefix())] {
        let begins = |name: &&LockName| name.as_str().starts_with(&prefix);
        let mut listed = super::observing::all_names(stage, &prefix).await;
        // Without a prefix, whoever else uses the store is listed too.
        listed.retain(|name| expected.contains(name));
        listed.sort();
        assert_eq!(
            listed,
            expected.iter().filter(begins).cloned().collect::<Vec<_>>(),
            "under {prefix:?}"
        );
    }
    for guard in guards {
        assert!(guard.is_held());
        guard.release().await.unwrap();
    }
}
