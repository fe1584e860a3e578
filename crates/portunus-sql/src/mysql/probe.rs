//! What about a server's settings is dangerous.

use super::connection::Settings;
use crate::server::failure::Fallible;

pub(super) fn probe(settings: &Settings) -> Fallible<(String, Vec<String>)> {
    Ok((settings.get("version").to_owned(), warnings(settings)))
}

fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_on = |name| matches!(settings.get(name), "ON" | "1");
    let flush = settings.get("innodb_flush_log_at_trx_commit");
    if !matches!(flush, "1" | "3") {
        warnings.push(format!(
            "`innodb_flush_log_at_trx_commit` is {flush}: a crash of the server may take back grants, and \
             give their tokens again; set it to 1"
        ));
    }
    let sync = settings.get("sync_binlog");
    if is_on("log_bin") && sync != "1" {
        warnings.push(format!(
            "`sync_binlog` is {sync}: a crash of the server may leave replicas ahead of it or behind; set \
             it to 1"
        ));
    }
    if is_on("wsrep_on") {
        warnings.push(
            "this is a node of a Galera cluster, which is untested: of two who enter one queue at two nodes \
             one is rolled back and tries again"
                .to_owned(),
        );
    }
    warnings
}
