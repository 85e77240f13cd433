//! Pictures as golden files.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::widgets::Widget;

use super::draw::{Picture, Theme};
use super::fixture::{self, all_fine};
use super::said::Line;
use super::shop::{Health, Look, Shop};
use crate::manifest::State;
use crate::up::Hints;

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A shop that was looked at for a minute, with some orders a second.
fn after_a_minute() -> Shop {
    let mut shop = Shop::default();
    let mut placed = 0;
    for second in 5..65 {
        placed += (second * 7 % 13) + second / 4;
        shop.take(all_fine(seconds(second), placed));
    }
    shop
}

fn said() -> Vec<Line> {
    let lines = [
        (2.1, "topics are there"),
        (2.3, "databases are migrated"),
        (4.0, "outbox-relay (pid 41317, port 9100) is ready"),
        (4.1, "order (pid 41334, port 8001) is ready"),
        (4.6, "saga-orchestrator (pid 41436, port 8009) is ready"),
        (4.6, "everything is ready\n\nNAME  …"),
    ];
    let line = |(at, text): (f32, &str)| Line {
        at: Duration::from_secs_f32(at),
        text: text.to_owned(),
    };
    lines.into_iter().map(line).collect()
}

fn hints() -> Hints {
    Hints {
        orders: "http://127.0.0.1:8001/orders".to_owned(),
        onceward: "target/debug/onceward".to_owned(),
        ..Hints::default()
    }
}

fn draw(shop: &Shop, said: &[Line], size: (u16, u16), colour: bool) -> Buffer {
    let area = Rect::new(0, 0, size.0, size.1);
    let mut buffer = Buffer::empty(area);
    let picture = Picture {
        shop,
        said,
        hints: &hints(),
        now: shop.at,
        theme: Theme { colour },
    };
    picture.render(area, &mut buffer);
    buffer
}

/// The characters; blanks at the ends of lines don't count.
fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let lines = buffer.content.chunks(width).map(|cells| {
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn picture(shop: &Shop, said: &[Line], size: (u16, u16)) -> String {
    text(&draw(shop, said, size, true))
}

#[test]
fn all_is_fine() {
    let shop = after_a_minute();
    insta::assert_snapshot!("all_fine_80x24", picture(&shop, &said(), (80, 24)));
    insta::assert_snapshot!("all_fine_120x40", picture(&shop, &said(), (120, 40)));
}

#[test]
fn one_process_restarts() {
    let mut shop = after_a_minute();
    let mut look = all_fine(seconds(65), 900);
    let (payment, health) = &mut look.processes[4];
    (payment.state, payment.pid, payment.restarts) = (State::Waiting, None, 2);
    *health = Health::NotAsked;
    look.services.remove("payment");
    shop.take(look);
    let mut said = said();
    said.push(Line {
        at: seconds(64),
        text: "payment ended by itself (killed by SIGKILL); starting it again".to_owned(),
    });
    insta::assert_snapshot!("restart_80x24", picture(&shop, &said, (80, 24)));
    insta::assert_snapshot!("restart_120x40", picture(&shop, &said, (120, 40)));
}

/// Kafka was killed; orders are still taken and pile up in the outbox of the order service.
fn kafka_down() -> (Shop, Vec<Line>) {
    let why = "Kafka does not answer: broker transport failure";
    let mut shop = after_a_minute();
    let down = |second: u64| -> Look {
        // Orders are taken, and none ends.
        let mut look = fixture::look(seconds(second), 867 + (second - 64) * 20, 867);
        let (kafka, health) = &mut look.processes[0];
        (kafka.state, kafka.pid, kafka.restarts) = (State::Waiting, None, 1);
        *health = Health::NotAsked;
        look.processes[1].1 = Health::NotReady(format!("order, payment: {why}"));
        for source in &mut look.relay.as_mut().unwrap().sources {
            source.state = "hold".to_owned();
        }
        let order = &mut look.relay.as_mut().unwrap().sources[0];
        order.unpublished_rows = Some(1234);
        order.oldest_age_ms = Some(61_500);
        order.alarm = true;
        order.last_error = Some(why.to_owned());
        look
    };
    let mut said = said();
    said.push(Line {
        at: seconds(64),
        text: "kafka ended by itself (killed by SIGKILL); starting it again in 10.0 s".to_owned(),
    });
    for second in 65..68 {
        let at = seconds(second);
        let told = shop.take(down(second));
        said.extend(told.into_iter().map(|text| Line { at, text }));
    }
    (shop, said)
}

#[test]
fn kafka_is_down_and_the_backlog_grows() {
    let (shop, said) = kafka_down();
    insta::assert_snapshot!("kafka_down_80x24", picture(&shop, &said, (80, 24)));
    insta::assert_snapshot!("kafka_down_120x40", picture(&shop, &said, (120, 40)));
}

#[test]
fn nothing_breaks_at_any_size_and_what_matters_stays() {
    let (shop, said) = kafka_down();
    for width in (1..150).step_by(7) {
        for height in 0..50 {
            let text = picture(&shop, &said, (width, height));
            if width >= 66 && height >= 20 {
                assert!(text.contains("needs a person"), "{width}x{height}\n{text}");
                assert!(
                    text.contains("saga-orchestrator"),
                    "{width}x{height}\n{text}"
                );
            }
        }
    }
}

#[test]
fn no_colour_means_none() {
    let (shop, said) = kafka_down();
    let colours = |colour| {
        let buffer = draw(&shop, &said, (80, 24), colour);
        let mut cells = buffer.content.iter();
        cells.any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert!(colours(true) && !colours(false));
}
