//! The page and the table of a study: the answer, every part alone and together, thousands of trials, and hostile text.

use roxmltree::{Document, ParsingOptions};
use thalweg_study::page::render_study;
use thalweg_study::record::{ForecastRow, GainRow, StudyRecord};
use thalweg_study::study_answer::answer_text;
use thalweg_study::table::to_csv;
use thalweg_study::write_study::write_study;

use crate::study_sample::{empty, large, whole};

fn parse(page: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}"))
}

fn check_silent(page: &str) {
    let document = parse(page);
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let fetches = ["script", "img", "iframe", "object", "embed", "audio", "video", "source"];
        if fetches.contains(&node.tag_name().name()) {
            assert!(node.attribute("src").is_none(), "{node:?}");
        }
        for attribute in node.attributes().filter(|a| matches!(a.name(), "href" | "src" | "action")) {
            assert!(attribute.value().starts_with("data:"), "{}", attribute.value());
        }
    }
    assert!(!page.contains("@import") && !page.contains("url(h"));
}

fn titles(page: &str) -> Vec<String> {
    let document = parse(page);
    let titles = document.descendants().filter(|node| node.tag_name().name() == "h2");
    titles.filter_map(|node| node.text().map(str::to_owned)).collect()
}

/// Where a person can open it.
fn keep(name: &str, page: &str) {
    std::fs::write(format!("{}/{name}.html", env!("CARGO_TARGET_TMPDIR")), page).unwrap();
}

fn elements<'a>(document: &'a Document<'_>) -> impl Iterator<Item = roxmltree::Node<'a, 'a>> {
    document.descendants().filter(roxmltree::Node::is_element)
}

#[test]
fn the_answer_says_what_was_chosen_forecast_proposed_and_where_to_resume() {
    let text = answer_text(&whole()).replace(". ", ".\n");
    insta::assert_snapshot!(text, @"
    Merging helps.
    Best of 24 by suite `choose`: wma of 8, every 40 steps, to step 2000.
    On suite `report` it scores 1.9782 (nats per token on `text`, less is better), a gain of +0.0333 over the newest raw checkpoint (95 % interval +0.0273 to +0.0393; n = 240).
    A real anneal (linear, 200 steps from step 2000) gains +0.0600 over the same checkpoint (95 % interval +0.0540 to +0.0660).
    It is ahead of the merge by +0.026 (95 % interval +0.016 to +0.036): the merge achieves 56 % of the anneal's gain, with no further training.
    A 1-sqrt anneal of 200 steps that ends at step 2200 is forecast to reach 1.981 nats per token on `text` (80 % interval 1.975 to 1.987; 95 % interval 1.971 to 1.992); the newest raw checkpoint has 2.012.
    It reached 1.978: the forecast is off by +0.003, inside the 95 % interval.
    It is the first of 2 forecasts.
    The fitted model proposes wma of 8 checkpoints, 40 steps apart (95 % interval 6 to 14 checkpoints); it is based on 3 scored windows and the Gram matrix of 50 checkpoints.
    The run did not recover from the spike at step 1250 (loss and gradient norm).
    The start point is the average of steps 1160, 1200, 1240.
    Each displacement is nearly at right angles to the one before it: the mean cosine is -0.13 (n = 48).
    The first principal component explains 61 % of the movement; in a random walk of the same length it explains 61 %: the shape of the path says nothing about this run.
    The plain mean of all 50 checkpoints is 15.0 % of the norm away from the newest one.
    The window was chosen on a different suite from the one reported here.
    ");
}

#[test]
fn the_answer_holds_no_more_than_the_record() {
    let mut record = whole();
    record.forecasts.clear();
    (record.proposal, record.recovery) = (None, Vec::new());
    record.spikes.retain(|spike| spike.end.is_some());
    // Only the suite that chose has scores.
    for trial in &mut record.trials {
        trial.scores.truncate(1);
    }
    insta::assert_snapshot!(answer_text(&record), @"Merging helps. Best of 24 by suite `choose`: wma of 8, every 40 steps, to step 2000. There it scores 1.9902 (nats per token on `text`, less is better), a gain of +0.0333 over the newest raw checkpoint (95 % interval +0.0273 to +0.0393; n = 240). A real anneal (linear, 200 steps from step 2000) gains +0.0600 over the same checkpoint (95 % interval +0.0540 to +0.0660). It is ahead of the merge by +0.026 (95 % interval +0.016 to +0.036): the merge achieves 56 % of the anneal's gain, with no further training. Each displacement is nearly at right angles to the one before it: the mean cosine is -0.13 (n = 48). The first principal component explains 61 % of the movement; in a random walk of the same length it explains 61 %: the shape of the path says nothing about this run. The plain mean of all 50 checkpoints is 15.0 % of the norm away from the newest one. The window is reported on the same suite that chose it, which makes the best of many look better than it is.");
    record.choice = None;
    insta::assert_snapshot!(answer_text(&record), @"The run has no consistent direction from checkpoint to checkpoint. Each displacement is nearly at right angles to the one before it: the mean cosine is -0.13 (n = 48). The first principal component explains 61 % of the movement; in a random walk of the same length it explains 61 %: the shape of the path says nothing about this run. The plain mean of all 50 checkpoints is 15.0 % of the norm away from the newest one.");
    let mut record = whole();
    for gain in record.trials.iter_mut().flat_map(|trial| &mut trial.scores).filter_map(|score| score.gain.as_mut()) {
        gain.interval_95 = Some([-0.01, 0.02]);
    }
    assert!(answer_text(&record).starts_with("No difference beyond noise."));
    let mut record = empty();
    record.forecasts = vec![ForecastRow { truth: None, ..whole().forecasts[0].clone() }];
    assert!(answer_text(&record).starts_with("An anneal would reach 1.9810."));
    record.forecasts[0].truth = Some(1.5);
    assert!(answer_text(&record).starts_with("The forecast missed."));
    let mut record = empty();
    record.recovery = vec![1_200];
    insta::assert_snapshot!(answer_text(&record), @"Resume from step 1200. Step 1200 is the only checkpoint to resume from.");
}

#[test]
fn the_answer_compares_the_merge_with_the_anneal() {
    let mut record = whole();
    record.forecasts.clear();
    (record.proposal, record.recovery) = (None, Vec::new());
    record.spikes.clear();
    let sentence = |record: &StudyRecord| {
        let text = answer_text(record);
        text[text.find("A real anneal").unwrap()..].split(" The window was").next().unwrap().to_owned()
    };
    insta::assert_snapshot!(sentence(&record), @"A real anneal (linear, 200 steps from step 2000) gains +0.0600 over the same checkpoint (95 % interval +0.0540 to +0.0660). It is ahead of the merge by +0.026 (95 % interval +0.016 to +0.036): the merge achieves 56 % of the anneal's gain, with no further training. Each displacement is nearly at right angles to the one before it: the mean cosine is -0.13 (n = 48). The first principal component explains 61 % of the movement; in a random walk of the same length it explains 61 %: the shape of the path says nothing about this run. The plain mean of all 50 checkpoints is 15.0 % of the norm away from the newest one.");
    let last = record.annealed.len() - 1;
    let lead = |record: &mut StudyRecord, value: f64| {
        for score in &mut record.annealed[last].scores {
            score.gain_over_chosen = Some(GainRow { value, interval_95: Some([value - 0.01, value + 0.01]) });
        }
    };
    lead(&mut record, -0.03);
    insta::assert_snapshot!(sentence(&record), @"A real anneal (linear, 200 steps from step 2000) gains +0.0600 over the same checkpoint (95 % interval +0.0540 to +0.0660). The merge is ahead of it by +0.030 (95 % interval +0.020 to +0.040). Each displacement is nearly at right angles to the one before it: the mean cosine is -0.13 (n = 48). The first principal component explains 61 % of the movement; in a random walk of the same length it explains 61 %: the shape of the path says nothing about this run. The plain mean of all 50 checkpoints is 15.0 % of the norm away from the newest one.");
    lead(&mut record, 0.001);
    insta::assert_snapshot!(sentence(&record), @"A real anneal (linear, 200 steps from step 2000) gains +0.0600 over the same checkpoint (95 % interval +0.0540 to +0.0660). Its lead over the merge, +0.001 (95 % interval -0.009 to +0.011), is within noise. Each displacement is nearly at right angles to the one before it: the mean cosine is -0.13 (n = 48). The first principal component explains 61 % of the movement; in a random walk of the same length it explains 61 %: the shape of the path says nothing about this run. The plain mean of all 50 checkpoints is 15.0 % of the norm away from the newest one.");
    record.annealed.clear();
    assert!(!answer_text(&record).contains("anneal"));
}

#[test]
fn the_head_of_the_page_has_names_as_code_and_the_real_anneal_as_a_figure() {
    let page = render_study(&whole());
    let head = page.split("<header>").nth(1).unwrap().split("</header>").next().unwrap();
    assert!(head.contains("Best of 24 by suite <code>choose</code>:") && !head.contains('`'), "{head}");
    let figure = "<span>really annealed</span><b>1.9515</b><span>linear, from step 2000 to 2200</span>";
    assert!(head.contains(figure), "{head}");
}

#[test]
fn the_names_of_phases_are_drawn_over_the_data() {
    let page = render_study(&whole());
    let picture = page.split("<svg").find(|svg| svg.contains("anneal forked")).unwrap();
    let names: Vec<usize> = picture.match_indices("class=\"phase-name\"").map(|(at, _)| at).collect();
    let curves = picture.rfind("class=\"line raw").max(picture.rfind("class=\"line training"));
    assert!(curves.is_some() && names.len() > 1);
    assert!(names.into_iter().all(|at| Some(at) > curves && Some(at) > picture.rfind("<line class=\"spike\"")));
}

#[test]
fn lengths_are_drawn_where_windows_differ_in_nothing_else() {
    let mut record = whole();
    assert!(!titles(&render_study(&record)).contains(&"Window length against score".to_owned()), "two intervals");
    record.trials.retain(|trial| trial.interval_steps == Some(40));
    let page = render_study(&record);
    assert!(titles(&page).contains(&"Window length against score".to_owned()));
    keep("lengths", &page);
    record.trials.retain(|trial| trial.n_checkpoints == 8);
    assert!(!titles(&render_study(&record)).contains(&"Window length against score".to_owned()), "one length");
}

#[test]
fn spikes_that_healed_are_no_news() {
    // The page of a run that recovered by itself says the same as one without spikes.
    let mut quiet = whole();
    (quiet.spikes, quiet.recovery) = (Vec::new(), Vec::new());
    let mut healed = whole();
    healed.recovery.clear();
    healed.spikes.iter_mut().for_each(|spike| spike.end = Some(spike.onset + 40));
    assert_eq!(answer_text(&healed), answer_text(&quiet));
    assert_eq!(titles(&render_study(&healed)), titles(&render_study(&quiet)));
    let page = render_study(&healed);
    assert!(page.contains("2 spikes from which the training loss recovered by itself"));
    healed.spikes.truncate(1);
    assert!(render_study(&healed).contains("1 spike from which the training loss recovered by itself"));
    // Without a checkpoint before the spike there is nothing to resume from, but the page must name the spike.
    healed.spikes[0].end = None;
    assert!(answer_text(&healed).contains("The run did not recover from the spike at step 430 (gradient norm)."));
}

#[test]
fn the_page_has_every_part_and_is_the_same_every_time() {
    let record = whole();
    let page = render_study(&record);
    keep("study", &page);
    insta::assert_snapshot!(titles(&page).join("\n"), @r#"
    Scores along the run
    Which window
    Merges in order
    What an anneal would score
    Spikes and where to resume
    Geometry of the trajectory
    What went into each merge
    What these numbers do not say
    The same on your checkpoints
    What was run
    "#);
    let again = StudyRecord::from_json(&record.to_json().unwrap()).unwrap();
    assert!(again == record && render_study(&again) == page);
    check_silent(&page);
}

#[test]
fn each_part_stands_alone_and_an_empty_record_has_a_page() {
    assert_eq!(titles(&render_study(&empty())), ["What was run"]);
    type Part<'a> = (&'a str, fn(&mut StudyRecord, StudyRecord), &'a [&'a str]);
    let parts: [Part<'_>; 11] = [
        ("training", |to, from| to.training = from.training, &["Training loss along the run"]),
        ("raws", |to, from| to.raws = from.raws, &["Scores along the run"]),
        ("annealed", |to, from| to.annealed = from.annealed, &["Scores along the run"]),
        (
            "trials",
            |to, from| to.trials = from.trials,
            &["Scores along the run", "Which window", "Merges in order", "What went into each merge"],
        ),
        ("commands", |to, from| to.commands = from.commands, &["The same on your checkpoints"]),
        ("facts", |to, from| to.facts = from.facts, &[]),
        ("forecasts", |to, from| to.forecasts = from.forecasts, &["What an anneal would score"]),
        ("spikes", |to, from| to.spikes = from.spikes, &["Spikes and where to resume"]),
        ("recovery", |to, from| to.recovery = from.recovery, &["Spikes and where to resume"]),
        ("geometry", |to, from| to.geometry = from.geometry, &["Geometry of the trajectory"]),
        ("choice", |to, from| to.choice = from.choice, &[]),
    ];
    for (name, take, expected) in parts {
        let mut record = empty();
        take(&mut record, whole());
        let mut expected: Vec<&str> = expected.to_vec();
        expected.push("What was run");
        assert_eq!(titles(&render_study(&record)), expected, "{name}");
    }
}

#[test]
fn thousands_of_trials_and_checkpoints_stay_small_and_keep_their_extremes() {
    let mut record = large();
    assert_eq!((record.trials.len(), record.raws.len()), (2_000, 2_000));
    // One step of training and one checkpoint differ from the rest: they may not be thinned away.
    record.training[1_700].nll_nats = 9.5;
    record.raws[1_500].scores[2].value = 2.9;
    let page = render_study(&record);
    keep("study-large", &page);
    let document = parse(&page);
    let in_pictures =
        elements(&document).filter(|node| node.tag_name().namespace() == Some("http://www.w3.org/2000/svg"));
    let n_nodes = in_pictures.count();
    assert!(n_nodes < 14_000, "{n_nodes} elements in pictures");
    assert!(page.len() < 3_500_000, "{} bytes", page.len());
    let titles =
        |needle: &str| elements(&document).filter(|node| node.text().is_some_and(|text| text.contains(needle))).count();
    assert!(titles("raw checkpoint, step 1501\n2.9000") > 0);
    let per_picture = elements(&document).filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "svg")));
    for picture in per_picture {
        let n_marks = picture
            .descendants()
            .filter(|node| node.attribute("class").is_some_and(|class| class.starts_with("mark")))
            .count();
        assert!(n_marks <= 420, "{n_marks} marks in {:?}", picture.attribute("aria-label"));
    }
    let spike_page_top = elements(&document)
        .filter(|node| node.attribute("class") == Some("line training"))
        .flat_map(|node| node.attribute("points").unwrap().split(' '))
        .map(|point| point.split(',').nth(1).unwrap().parse::<f64>().unwrap())
        .fold(f64::INFINITY, f64::min);
    assert!(spike_page_top < 60.0, "the spike reaches the top of its picture: {spike_page_top}");
}

#[test]
fn marks_lie_in_their_pictures_and_name_windows_that_exist() {
    let page = render_study(&whole());
    let document = parse(&page);
    let ids: Vec<&str> = elements(&document).filter_map(|node| node.attribute("id")).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "ids are unique");
    let windows: Vec<&str> = elements(&document).filter_map(|node| node.attribute("data-w")).collect();
    assert!(windows.len() > 100, "{}", windows.len());
    for window in windows {
        assert!(unique.binary_search(&format!("w{window}").as_str()).is_ok(), "{window}");
    }
    for svg in elements(&document).filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "svg"))) {
        let view: Vec<f64> = svg.attribute("viewBox").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
        for node in svg.descendants().filter(|node| ["circle", "rect", "text"].contains(&node.tag_name().name())) {
            let number = |name: &str| node.attribute(name).map(|n| n.parse::<f64>().unwrap());
            let (Some(x), Some(y)) = (number("cx").or(number("x")), number("cy").or(number("y"))) else { continue };
            assert!(
                x >= -1.0 && x <= view[2] + 1.0 && y >= -1.0 && y <= view[3] + 1.0,
                "{node:?} at {x}, {y} in {view:?}"
            );
        }
    }
}

#[test]
fn what_is_hidden_without_a_script_is_what_was_not_chosen_first() {
    let page = render_study(&whole());
    let document = parse(&page);
    for (attribute, first) in [("data-metric", "0"), ("data-end", "2000")] {
        for node in elements(&document).filter(|node| node.has_attribute(attribute)) {
            assert_eq!(node.has_attribute("hidden"), node.attribute(attribute) != Some(first), "{node:?}");
        }
    }
    let is_shown = |node: &roxmltree::Node<'_, '_>| !node.has_attribute("hidden");
    let axes = elements(&document).filter(|node| node.has_attribute("data-axis")).filter(is_shown);
    // Steps and tokens share their places, and time has separate pictures, whose first ticks are ready but not shown.
    let blocks: Vec<_> = axes.filter(|node| node.has_tag_name(("http://www.w3.org/1999/xhtml", "div"))).collect();
    assert!(blocks.len() > 4, "{}", blocks.len());
    for node in blocks {
        assert_eq!(node.attribute("data-axis"), Some("steps tokens"));
    }
    // A suite that reports calls nothing best: it is the first, and the others call one best in each of their maps.
    let best = |metric: &str| {
        let block = elements(&document).filter(|node| node.attribute("data-metric") == Some(metric));
        block.flat_map(|node| node.descendants()).filter(|node| node.attribute("aria-label") == Some("best")).count()
    };
    assert_eq!([best("0"), best("1")], [0, 4]);
}

#[test]
fn data_cannot_become_markup_in_a_study() {
    let hostile = "\"><img src=x onerror=alert(1)></script><!--&]]>\u{0}";
    // Every string of the record, whatever its field.
    fn replace(value: &mut serde_json::Value, with: &str) {
        match value {
            serde_json::Value::String(text) => *text = with.to_owned(),
            serde_json::Value::Array(values) => values.iter_mut().for_each(|value| replace(value, with)),
            serde_json::Value::Object(values) => {
                let names = ["kind", "version", "phase"];
                values
                    .iter_mut()
                    .filter(|(name, _)| !names.contains(&name.as_str()))
                    .for_each(|(_, value)| replace(value, with));
            }
            _ => {}
        }
    }
    let mut value = serde_json::to_value(whole()).unwrap();
    replace(&mut value, hostile);
    let page = render_study(&StudyRecord::from_json(&value.to_string()).unwrap());
    let document = parse(&page);
    assert!(elements(&document).all(|node| node.tag_name().name() != "img"));
    assert!(document.descendants().all(|node| !node.is_comment()));
    assert_eq!(page.matches("</script>").count(), 1);
    assert!(page.contains("&lt;img src=x"));
}

#[test]
fn numbers_at_the_ends_of_their_range_still_make_a_study_page() {
    for extreme in [0.0, -1.0, f64::MAX, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY] {
        let mut record = whole();
        for score in record.raws.iter_mut().flat_map(|raw| &mut raw.scores) {
            score.value = extreme;
        }
        for trial in &mut record.trials {
            trial.end_step = u64::MAX;
            trial.sources.clear();
            trial.scores.iter_mut().for_each(|score| score.value = extreme);
        }
        for one in &mut record.forecasts {
            (one.value, one.interval_80, one.interval_95) = (extreme, [extreme, -extreme], [-extreme, extreme]);
        }
        for point in &mut record.training {
            (point.step, point.nll_nats, point.learning_rate) = (u64::MAX, extreme, extreme);
        }
        record.recovery = vec![u64::MAX, 0];
        let geometry = record.geometry.as_mut().unwrap();
        geometry.plane[3] = [extreme, -extreme];
        geometry.displacements[2] = extreme;
        geometry.component_shares[0] = extreme;
        geometry.steps.truncate(7);
        geometry.groups[0].relative_displacement = extreme;
        record.checkpoints.iter_mut().for_each(|row| row.seconds = Some(extreme));
        parse(&render_study(&record));
        to_csv(&record);
    }
}

#[test]
fn the_table_has_a_row_for_each_score_and_quotes_what_must_be() {
    let mut record = whole();
    record.trials.truncate(1);
    record.raws.truncate(1);
    record.annealed.clear();
    record.trials[0].scores.truncate(1);
    record.raws[0].scores.truncate(2);
    record.trials[0].name = "a \"quoted\", name\nof two lines".to_owned();
    insta::assert_snapshot!(to_csv(&record), @r#"
    kind,name,step,tokens,n_checkpoints,interval_steps,interval_tokens,scheme,is_chosen,suite,role,task,measure,higher_is_better,value,standard_error,n,gain,gain_low_95,gain_high_95,plan_digest,params_digest,path,source_steps,coefficients
    raw,raw step 40,40,81920,,,,,false,choose,selection,text,nats_per_token,false,5.411227961824726,0.012,240,,,,,blake3:0000000000000000000000000000000000000000000000000000000000000028,runs/made-up/step-40,,
    raw,raw step 40,40,81920,,,,,false,choose,selection,text,bits_per_byte,false,2.3809403032028795,0.012,240,,,,,blake3:0000000000000000000000000000000000000000000000000000000000000028,runs/made-up/step-40,,
    merged,"a ""quoted"", name
    of two lines",800,1638400,2,40,,sma,false,choose,selection,text,nats_per_token,false,2.2043255989299935,0.012,240,0.004319774173274116,-0.0016802258267258844,0.010319774173274116,blake3:00000000000000000000000000000000000000000000000000000000001e88be,,,760 800,0.5 0.5
    "#);
    // As many rows as scores, each of as many cells as the head.
    let record = whole();
    let text = to_csv(&record);
    let n_scores = (record.raws.len() + record.annealed.len() + record.trials.len()) * 4;
    assert_eq!(text.lines().count(), n_scores + 1);
    assert!(text.lines().all(|line| line.split(',').count() == 25));
}

#[test]
fn a_studys_folder_holds_record_table_and_page_that_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let record = whole();
    let storage = thalweg_storage::LocalStorage::new();
    let page = write_study(&storage, folder.path(), &record).unwrap();
    // Again, over what is there.
    write_study(&storage, folder.path(), &record).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(std::fs::read_to_string(page).unwrap() == render_study(&record));
    assert!(StudyRecord::from_json(&read("study.json")).unwrap() == record);
    assert!(read("study.csv") == to_csv(&record));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}
