//! What about a cluster's version and settings weakens its promises.

use etcd_client::{AlarmAction, AlarmType};
use portunus_core::error::Result;

use crate::endpoints::Endpoints;
use crate::error::Effect;

/// Returns the version of the member that answers, and warnings for people.
pub(crate) async fn inspect(endpoints: &Endpoints) -> Result<(String, Vec<String>)> {
    let status = endpoints.run(Effect::Read, |client| {
        let mut maintenance = client.maintenance_client();
        async move { maintenance.status().await }
    });
    let status = status.await.map_err(|fault| fault.into_error("probe", None))?;
    let version = status.version().to_owned();
    let mut warnings: Vec<String> = known_bugs(&version).map(str::to_owned).collect();

    let alarms = endpoints.run(Effect::Read, |client| {
        let mut maintenance = client.maintenance_client();
        async move { maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await }
    });
    match alarms.await {
        Ok(alarms) => {
            warnings.extend(alarms.alarms().iter().filter_map(|alarm| match alarm.alarm() {
                AlarmType::None => None,
                AlarmType::Nospace => Some("alarm NOSPACE: the store takes no new entries".into()),
                AlarmType::Corrupt => Some("alarm CORRUPT: a member's data differ".into()),
            }));
        }
        Err(fault) => warnings.push(unread("alarms", fault)),
    }

    let members = endpoints.run(Effect::Read, |client| {
        let mut cluster = client.cluster_client();
        async move { cluster.member_list().await }
    });
    match members.await {
        Ok(members) if members.members().len() == 1 => {
            warnings.push("one member: no fault of it is survived".into());
        }
        Ok(_) => {}
        Err(fault) => warnings.push(unread("members", fault)),
    }
    Ok((version, warnings))
}

fn unread(what: &str, fault: crate::error::Fault) -> String {
    format!("the {what} can't be read: {:#}", fault.into_error("probe", None))
}

fn known_bugs(version: &str) -> impl Iterator<Item = &'static str> {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse::<u32>().ok());
    let mut next = move || numbers.next().flatten();
    let version = next().zip(next()).zip(next());
    BUGS.iter().filter_map(move |(bug, ranges)| {
        let ((major, minor), patch) = version?;
        let affected = |&(line, from, fixed): &Line| {
            major == 3 && minor == line && (from..fixed).contains(&patch)
        };
        ranges.iter().any(affected).then_some(*bug)
    })
}

/// A line of versions with a bug: the minor version, the first patch with it, the first without.
type Line = (u32, u32, u32);

const BUGS: &[(&str, &[Line])] = &[
    (
        "a leader that stalls can revoke leases that are renewed (etcd #15247)",
        &[(4, 0, 31), (5, 0, 13)],
    ),
    (
        "a renewal can be confirmed for a lease that is revoked (etcd #20590)",
        &[(4, 0, 38), (5, 0, 23), (6, 0, 5)],
    ),
    (
        "a member that was paused can answer from the past (etcd #20418)",
        &[(4, 20, 42), (5, 0, 28), (6, 0, 9)],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_known_bugs_are_told() {
        let count = |version| known_bugs(version).count();
        assert_eq!(count("3.4.23"), 3);
        assert_eq!(count("3.5.16"), 2);
        assert_eq!(count("3.5.28"), 0);
        assert_eq!(count("3.6.0-rc.1"), 2);
        assert_eq!(count("unknown"), 0);
    }
}
