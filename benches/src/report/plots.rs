//! The results as pictures: latency by quantile, throughput through a kill, backlogs.
//!
//! `plotters` with its SVG backend alone: texts stay texts, so no font is needed to draw them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::Report;
use crate::reader::Timeline;
use crate::relay::Whose;

/// Width of a picture, and height of each of its panels.
const WIDTH: u32 = 900;
const PANEL: u32 = 260;
const TITLE: u32 = 64;
const FONT: &str = "sans-serif";
/// Seconds of a bar of the throughput.
const BAR: f64 = 0.2;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;
/// Draws one panel.
type Chart = fn(&Canvas<'_>, &Panel) -> Drawn;

/// One chart of a picture.
#[derive(Debug, PartialEq)]
struct Panel {
    title: String,
    lines: Vec<Line>,
    /// Moments to point at.
    kills: Vec<f64>,
}

impl Panel {
    /// The largest of what `axis` takes out of the points.
    fn most(&self, axis: impl Fn(&(f64, f64)) -> f64) -> f64 {
        let points = self.lines.iter().flat_map(|line| &line.points);
        points.map(axis).fold(f64::NEG_INFINITY, f64::max)
    }
}

#[derive(Debug, PartialEq)]
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Report {
    /// Draws what this run has data for into files whose names begin like `results`; gives their paths.
    pub(super) fn draw(&self, results: &Path) -> Result<Vec<PathBuf>> {
        let stem = results.file_stem().unwrap_or_default().to_string_lossy();
        let mut written = Vec::new();
        let mut draw = |what: &str, title: &str, panels: Vec<Panel>, chart: Chart| -> Result<()> {
            if panels.is_empty() {
                return Ok(());
            }
            let file = results.with_file_name(format!("{stem}-{what}.svg"));
            self.picture(&file, title, &panels, chart)
                .map_err(|error| anyhow!("drawing {}: {error}", file.display()))?;
            written.push(file);
            Ok(())
        };
        draw(
            "latency",
            "From COMMIT to visible",
            self.latencies(),
            latency,
        )?;
        draw(
            "kill",
            "Rows a second through kill -9",
            self.kill_panels(),
            throughput,
        )?;
        draw("drain", "Backlogs", self.backlogs(), backlog)?;
        Ok(written)
    }

    fn latencies(&self) -> Vec<Panel> {
        panels(self.histograms.iter().map(|(case, points)| {
            let inner = |(quantile, _): &&(f64, f64)| *quantile > 0.0 && *quantile < 1.0;
            let points = points.iter().filter(inner);
            let points = points.map(|(quantile, ms)| (1.0 / (1.0 - quantile), *ms));
            (case.as_str(), points.collect())
        }))
    }

    fn kill_panels(&self) -> Vec<Panel> {
        let kills = self.timelines_of("kill").map(|(case, points)| {
            let line = Line {
                name: String::new(),
                points: rates(points, BAR),
            };
            Panel {
                title: case.clone(),
                lines: vec![line],
                kills: self.kills.get(case).cloned().unwrap_or_default(),
            }
        });
        kills.collect()
    }

    fn backlogs(&self) -> Vec<Panel> {
        panels(self.timelines_of("drain").map(|(case, points)| {
            let points = points.iter().map(|(at, count)| (*at, *count as f64));
            (case.as_str(), points.collect())
        }))
    }

    fn timelines_of(&self, begins: &str) -> impl Iterator<Item = (&String, &Timeline)> {
        let cases = self.timelines.iter();
        cases.filter(move |(case, _)| case.starts_with(begins))
    }

    fn picture(&self, file: &Path, title: &str, panels: &[Panel], chart: Chart) -> Drawn {
        let height = TITLE + PANEL * u32::try_from(panels.len())?;
        let canvas = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
        canvas.fill(&WHITE)?;
        let (head, body) = canvas.split_vertically(TITLE);
        head.draw_text(title, &(FONT, 20).into_text_style(&head), (16, 12))?;
        let machine = &self.machine;
        let below = format!(
            "{}, {} cores, load {:.1} before; commit {}, {}",
            machine.cpu,
            machine.cores,
            machine.load_before,
            self.commit,
            self.at.get(..10).unwrap_or(&self.at)
        );
        let grey = BLACK.mix(0.6);
        let grey = (FONT, 13, &grey).into_text_style(&head);
        head.draw_text(&below, &grey, (16, 40))?;
        for (area, panel) in body.split_evenly((panels.len(), 1)).iter().zip(panels) {
            chart(area, panel)?;
        }
        canvas.present()?;
        Ok(())
    }
}

/// One panel a load, which is what stands before the first comma of a case's name; one line for each case
/// of that load. Lines without points, and panels without lines, are left out.
fn panels<'a>(cases: impl Iterator<Item = (&'a str, Vec<(f64, f64)>)>) -> Vec<Panel> {
    let mut loads: BTreeMap<&str, Vec<Line>> = BTreeMap::new();
    for (case, points) in cases.filter(|(_, points)| !points.is_empty()) {
        let (load, name) = case.split_once(", ").unwrap_or((case, ""));
        let name = match name.contains(Whose::Debezium.name()) {
            true => name.to_owned(),
            false => format!("{}, {name}", Whose::Ours.name()),
        };
        loads.entry(load).or_default().push(Line { name, points });
    }
    let panel = |(load, lines): (&str, Vec<Line>)| Panel {
        title: load.to_owned(),
        lines,
        kills: Vec::new(),
    };
    loads.into_iter().map(panel).collect()
}

/// Rows a second out of how many were seen by when: the beginning of each stretch of `width` seconds, from 0
/// on, and its rate.
fn rates(timeline: &[(f64, u64)], width: f64) -> Vec<(f64, f64)> {
    let Some((end, _)) = timeline.last() else {
        return Vec::new();
    };
    let by = |at: f64| {
        let seen = timeline.partition_point(|(seconds, _)| *seconds <= at);
        let last = seen.checked_sub(1).and_then(|last| timeline.get(last));
        last.map_or(0, |(_, count)| *count)
    };
    let bars = (0..).map(|bar| f64::from(bar) * width);
    let bars = bars.take_while(|begin| begin < end);
    bars.map(|begin| (begin, (by(begin + width) - by(begin)) as f64 / width))
        .collect()
}

/// One colour for each way to publish, the same in all pictures.
fn colour(name: &str) -> RGBColor {
    match name {
        name if name.contains("Debezium") => RGBColor(213, 94, 0),
        name => match (name.contains("SQLite"), Whose::is_ours(name)) {
            (true, true) => RGBColor(0, 158, 115),
            (true, false) => RGBColor(153, 205, 178),
            (false, true) => RGBColor(0, 114, 178),
            (false, false) => RGBColor(153, 196, 224),
        },
    }
}

/// A chart of one panel.
type Framed<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// A chart's frame, common to all.
fn frame<'a, 'b, X: AsRangedCoord, Y: AsRangedCoord>(
    area: &'a Canvas<'b>,
    panel: &Panel,
    x: X,
    y: Y,
) -> Result<Framed<'a, 'b, X::CoordDescType, Y::CoordDescType>, Box<dyn Error>> {
    Ok(ChartBuilder::on(area)
        .caption(&panel.title, (FONT, 15))
        .margin(10)
        .margin_right(28)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?)
}

/// Milliseconds by share of the rows, the slowest of them spread out.
fn latency(area: &Canvas<'_>, panel: &Panel) -> Drawn {
    let x = (1.0..panel.most(|(x, _)| *x).max(10.0)).log_scale();
    let fastest = -panel.most(|(_, ms)| -ms);
    let y = (fastest.max(0.1) / 1.2..panel.most(|(_, ms)| *ms).max(1.0) * 1.2).log_scale();
    let mut chart = frame(area, panel, x, y)?;
    chart
        .configure_mesh()
        .x_desc("share of the rows")
        .x_label_formatter(&|x| share(*x))
        .y_desc("ms")
        .y_labels(6)
        .y_label_formatter(&|ms| format!("{ms}"))
        .light_line_style(WHITE)
        .draw()?;
    lines(&mut chart, panel, SeriesLabelPosition::LowerRight)
}

/// `99.9 %` for one row in 1,000.
fn share(one_in: f64) -> String {
    let digits = if one_in < 1_000.0 {
        0
    } else {
        one_in.log10() as usize - 2
    };
    format!("{:.digits$} %", 100.0 - 100.0 / one_in)
}

/// Bars, cut where the rows that had waited come all at once: else nothing but them is to be seen.
fn throughput(area: &Canvas<'_>, panel: &Panel) -> Drawn {
    let bars: Vec<(f64, f64)> = panel
        .lines
        .iter()
        .flat_map(|line| line.points.clone())
        .collect();
    let end = panel.most(|(x, _)| *x) + BAR;
    let (most, cut) = (panel.most(|(_, rate)| *rate), 5.0 * usual(&bars));
    let top = most.min(cut).max(1.0);
    let mut chart = frame(area, panel, 0.0..end, 0.0..top * 1.1)?;
    let upwards = match most > cut {
        true => format!("rows/s, cut at {}", super::number(cut)),
        false => "rows/s".to_owned(),
    };
    mesh(&mut chart, &upwards)?;
    let fill = colour(&panel.title).mix(0.7).filled();
    chart.draw_series(
        bars.iter()
            .map(|(at, rate)| Rectangle::new([(*at, 0.0), (at + BAR, rate.min(top))], fill)),
    )?;
    let line = BLACK.stroke_width(2);
    let killed = panel
        .kills
        .iter()
        .map(|at| PathElement::new([(*at, 0.0), (*at, top * 1.1)], line));
    chart.draw_series(killed)?;
    let text = (FONT, 13).into_font();
    let words = panel
        .kills
        .iter()
        .map(|at| Text::new("kill -9", (at + end / 150.0, top * 1.05), text.clone()));
    chart.draw_series(words)?;
    Ok(())
}

/// The middle one of the rates that are not 0.
fn usual(bars: &[(f64, f64)]) -> f64 {
    let rates = bars.iter().map(|(_, rate)| *rate);
    let mut rates: Vec<f64> = rates.filter(|rate| *rate > 0.0).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

fn backlog(area: &Canvas<'_>, panel: &Panel) -> Drawn {
    let (end, rows) = (panel.most(|(x, _)| *x), panel.most(|(_, rows)| *rows));
    let mut chart = frame(area, panel, 0.0..end.max(1.0) * 1.02, 0.0..rows * 1.05)?;
    mesh(&mut chart, "rows visible")?;
    lines(&mut chart, panel, SeriesLabelPosition::UpperMiddle)
}

/// Seconds to the right.
fn mesh<'a, 'b: 'a, X, Y>(chart: &mut Framed<'a, 'b, X, Y>, upwards: &str) -> Drawn
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_desc(upwards)
        .x_label_formatter(&|seconds| format!("{seconds}"))
        .y_label_formatter(&|value| match value.abs() {
            size if size >= 1_000.0 => super::number(*value),
            _ => format!("{value}"),
        })
        .light_line_style(WHITE)
        .draw()?;
    Ok(())
}

fn lines<'a, 'b: 'a, X, Y>(
    chart: &mut Framed<'a, 'b, X, Y>,
    panel: &Panel,
    legend: SeriesLabelPosition,
) -> Drawn
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for line in &panel.lines {
        let style = colour(&line.name).stroke_width(2);
        let points = line.points.iter().copied();
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use onceward_testkit::machine::Machine;

    use super::*;

    #[test]
    fn rates_count_what_came_in_each_stretch_and_know_standstill() {
        let timeline = [(0.1, 10), (0.9, 20), (2.5, 50)];
        let expected = vec![(0.0, 20.0), (1.0, 0.0), (2.0, 30.0)];
        assert_eq!(rates(&timeline, 1.0), expected);
        assert_eq!(rates(&[], 1.0), vec![]);
    }

    #[test]
    fn cases_of_one_load_share_a_panel_and_those_without_points_are_left_out() {
        let cases = [
            ("live 100/s, Postgres", vec![(1.0, 2.0)]),
            ("live 100/s, Postgres, Debezium", vec![(1.0, 3.0)]),
            ("live 1000/s, Postgres", vec![]),
        ];
        let panels = panels(cases.into_iter());
        let names = |panel: &Panel| {
            panel
                .lines
                .iter()
                .map(|line| line.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(panels.len(), 1);
        assert_eq!(panels[0].title, "live 100/s");
        let expected = ["Onceward, Postgres", "Postgres, Debezium"];
        assert_eq!(names(&panels[0]), expected);
    }

    fn report(histograms: serde_json::Value, timelines: serde_json::Value) -> Result<Report> {
        Ok(serde_json::from_value(serde_json::json!({
            "format": 1, "at": "2026-11-29T03:00:00Z", "commit": "abc", "quick": true,
            "machine": Machine::here(), "versions": {}, "config": {}, "figures": [],
            "histograms": histograms, "timelines": timelines,
            "kills": {"kill -9 of the relay, Postgres": [1.0]},
        }))?)
    }

    #[test]
    fn a_run_draws_what_it_has_measured_and_nothing_else() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let results = folder.path().join("run.json");
        let nothing = report(serde_json::json!({}), serde_json::json!({}))?;
        assert!(nothing.draw(&results)?.is_empty());

        let live = serde_json::json!({"live 100/s, SQLite": [[0.5, 1.5], [0.99, 4.0], [1.0, 9.0]]});
        let kill = serde_json::json!({"kill -9 of the relay, Postgres": [[0.1, 10], [1.9, 40]]});
        let pictures = report(live, kill)?.draw(&results)?;
        let names = pictures.iter().filter_map(|file| file.file_name());
        assert!(names.eq(["run-latency.svg", "run-kill.svg"]));
        let text = std::fs::read_to_string(&pictures[0])?;
        assert!(
            text.contains("live 100/s") && text.contains("SQLite"),
            "{text}"
        );
        assert!(std::fs::read_to_string(&pictures[1])?.contains("kill -9"));
        Ok(())
    }

    #[test]
    fn a_share_has_as_many_nines_as_it_needs() {
        assert_eq!(share(1.0), "0 %");
        assert_eq!(share(100.0), "99 %");
        assert_eq!(share(10_000.0), "99.99 %");
    }
}
