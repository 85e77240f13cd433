//! A server of Postgres that is gone for good, and the standby that takes its place.

use anyhow::Context;
use onceward::{Clock, SystemClock};
use onceward_testkit::postgres::Postgres;
use onceward_testkit::wait;
use rand::rngs::StdRng;
use sqlx::{Connection, PgConnection};
use tokio::runtime::Handle;

use super::Struck;
use crate::Result;
use crate::rig::{PATIENCE, Rig};
use crate::stage::Stage;

/// Kills the server; the standby, which has all that anybody saw, takes its place.
pub(super) fn promoted(rig: &mut Rig, _: &mut Stage, _: &mut StdRng) -> Result<Struck> {
    synchronous(rig)?;
    rig.flows()?;
    let (server, _) = rig.own.servers()?;
    server.power_off()?;
    promote(rig)?;
    Ok(Struck::since(SystemClock.now(), ""))
}

/// Has every commit wait for the standby from now on.
fn synchronous(rig: &mut Rig) -> Result<()> {
    let runtime = rig.runtime.clone();
    let (server, _) = rig.own.servers()?;
    let name_all = "alter system set synchronous_standby_names = '*'";
    runtime.block_on(alter(server, name_all))?;
    let counts = "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'";
    until(&runtime, server, "a synchronous standby", counts)
}

/// Cuts the standby off from what is written from now on.
pub(crate) fn fall_behind(rig: &mut Rig) -> Result<()> {
    let runtime = rig.runtime.clone();
    let (server, standby) = rig.own.servers()?;
    let follow_nobody = "alter system set primary_conninfo = ''";
    runtime.block_on(alter(standby, follow_nobody))?;
    let is_alone = "select count(*) = 0 from pg_stat_replication";
    until(&runtime, server, "the standby to be cut off", is_alone)
}

/// Changes a setting of a server that runs.
async fn alter(server: &Postgres, setting: &'static str) -> Result<()> {
    let mut conn = connect(server).await?;
    for statement in [setting, "select pg_reload_conf()"] {
        sqlx::raw_sql(statement).execute(&mut conn).await?;
    }
    Ok(())
}

/// Waits until a server answers this question with yes.
fn until(runtime: &Handle, server: &Postgres, what: &str, question: &'static str) -> Result<()> {
    let mut conn = runtime.block_on(connect(server))?;
    wait::until(what, PATIENCE, || {
        let answer = sqlx::query_scalar::<_, bool>(question).fetch_one(&mut conn);
        Ok(runtime.block_on(answer)?.then_some(()))
    })
}

/// Makes the standby a server of its own, behind the address of the one that is gone.
pub(crate) fn promote(rig: &mut Rig) -> Result<()> {
    let runtime = rig.runtime.clone();
    let (_, standby) = rig.own.servers()?;
    let mut conn = runtime.block_on(connect(standby))?;
    runtime.block_on(sqlx::raw_sql("select pg_promote()").execute(&mut conn))?;
    let url = standby.url("postgres");
    let address = rig.own.address.as_ref().context("no address of its own")?;
    address.point_at(&url);
    Ok(())
}

async fn connect(server: &Postgres) -> Result<PgConnection> {
    Ok(PgConnection::connect(&server.url("postgres")).await?)
}
