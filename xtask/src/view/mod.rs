//! The live view of `./dev up`: what runs, how many orders, what lags, what happened last.
//!
//! Numbers come from what every process serves anyway: `/readyz`, `/metrics`, the relay's `/status`.
//! `shop` turns them into state, `draw` turns state into a picture; both are pure.

use std::io::IsTerminal;
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures::future::{Fuse, FusedFuture};
use futures::{FutureExt, StreamExt};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::Result;
use crate::supervisor::Handle;
use crate::up::Hints;

mod draw;
#[cfg(test)]
mod fixture;
mod gather;
#[cfg(test)]
mod golden;
mod said;
mod scrape;
mod screen;
mod shop;
mod table;
mod text;

use draw::{Picture, Theme};
use gather::Gatherer;
pub use said::Said;
use screen::Screen;
use shop::Shop;

/// How often everything is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the view ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Stop everything.
    Stop,
    /// Go on without the view.
    PlainLines,
}

/// Whether a view can be shown: a person looks at a terminal that understands it, and we have it.
pub fn is_possible() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let out = std::io::stdout();
    // In the background (`./dev up &`) touching the terminal would stop us.
    let is_ours =
        || nix::unistd::tcgetpgrp(&out).is_ok_and(|group| group == nix::unistd::getpgrp());
    !set("CI") && !dumb && out.is_terminal() && std::io::stdin().is_terminal() && is_ours()
}

/// Shows the view until somebody wishes otherwise. Whenever this future ends or is dropped, the
/// terminal is as it was and what was said meanwhile is printed.
pub async fn run(handle: &Handle, said: &Said, hints: &Hints) -> Result<Wish> {
    let theme = Theme {
        colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    let gatherer = Gatherer::new(handle.clone())?;
    let mut screen = Screen::take(said.clone())?;
    let mut keys = EventStream::new();
    let mut continued = signal(SignalKind::from_raw(Signal::SIGCONT as i32))?;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shop = Shop::default();
    let mut look = std::pin::pin!(Fuse::terminated());
    loop {
        let lines = said.recent();
        screen.draw(Picture {
            shop: &shop,
            said: &lines,
            hints,
            now: said.now(),
            theme,
        })?;
        tokio::select! {
            // One look at a time: a slow answer keeps neither keys nor events waiting.
            _ = looks.tick(), if look.is_terminated() => {
                look.set(gatherer.look(said.now()).fuse());
            }
            seen = look.as_mut(), if !look.is_terminated() => {
                shop.take(seen).iter().for_each(|text| said.say(text));
            }
            () = said.more() => {}
            // Whoever stopped us had the terminal meanwhile.
            _ = continued.recv() => screen.take_again()?,
            key = keys.next() => match key {
                Some(event) => if let Some(wish) = wish(&event?) {
                    return Ok(wish);
                },
                None => return Ok(Wish::PlainLines), // the terminal is gone
            },
        }
    }
}

/// In raw mode Ctrl-C is a key like any other.
fn wish(event: &Event) -> Option<Wish> {
    let key = event
        .as_key_event()
        .filter(|key| key.kind == KeyEventKind::Press)?;
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if control => Some(Wish::Stop),
        KeyCode::Char('q' | 'Q') => Some(Wish::Stop),
        KeyCode::Char('p' | 'P') => Some(Wish::PlainLines),
        _ => None,
    }
}
