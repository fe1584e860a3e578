//! The version of the tables, the same in every database.

use portunus_core::error::{Error, ErrorKind, Result};

/// What this build reads and writes.
pub(crate) const VERSION: i64 = 1;

/// Refuses tables that were made by another version of this crate.
pub(crate) fn check_version(store: &'static str, found: i64) -> Result<()> {
    if found == VERSION {
        return Ok(());
    }
    let cure = match found < VERSION {
        true => "drop the tables while no lock is held, or use another database",
        false => "update this program, or use another database",
    };
    Err(Error::new(ErrorKind::Unsupported, store, "open_session").with_detail(format!(
        "its tables have schema version {found}, and this build knows {VERSION}: {cure}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused_with_what_to_do() {
        check_version("store", VERSION).unwrap();
        for (found, cure) in [(VERSION - 1, "drop the tables"), (VERSION + 1, "update this")] {
            let error = check_version("store", found).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(cure), "{error}");
        }
    }
}
