(function () {
  var tip = document.getElementById("tip");
  var chosen = {};
  function all(selector) { return Array.prototype.slice.call(document.querySelectorAll(selector)); }

  // Measure, axis and end step: a block is shown if it is of what was chosen.
  function choose(what, value) {
    chosen[what] = value;
    all("[data-" + what + "]").forEach(function (element) {
      element.toggleAttribute("hidden", element.getAttribute("data-" + what).split(" ").indexOf(value) === -1);
    });
    all("button[data-choose=" + what + "]").forEach(function (button) {
      button.setAttribute("aria-pressed", button.value === value ? "true" : "false");
    });
  }
  function attachChoosers() {
    all(".choose").forEach(function (group) { group.removeAttribute("hidden"); });
    all("select[data-choose]").forEach(function (select) {
      var what = select.getAttribute("data-choose");
      select.addEventListener("change", function () { choose(what, select.value); });
      // A browser may remember what was chosen before the page was loaded again.
      select.selectedIndex = 0;
      if (chosen[what] !== undefined) { select.value = chosen[what]; }
      if (select.selectedIndex === -1) { select.selectedIndex = 0; }
      if (chosen[what] !== undefined) { choose(what, select.value); }
    });
    all("button[data-choose]").forEach(function (button) {
      var what = button.getAttribute("data-choose");
      button.addEventListener("click", function () { choose(what, button.value); });
      if (chosen[what] === button.value) { choose(what, button.value); }
    });
  }

  // What one points at, or walks to, shows its coefficients as bars.
  function bars(element) {
    var windows = document.getElementById("w" + element.getAttribute("data-w"));
    if (windows === null) { return; }
    var coefficients = windows.getAttribute("data-c").split(" ").map(Number);
    var steps = windows.getAttribute("data-s").split(" ");
    var most = Math.max.apply(null, coefficients.map(Math.abs).concat(1e-9));
    var row = document.createElement("div");
    row.className = "bars";
    coefficients.slice(-64).forEach(function (coefficient) {
      var bar = document.createElement("i");
      bar.style.height = Math.max(3, Math.abs(coefficient) / most * 100) + "%";
      if (0 > coefficient) { bar.className = "negative"; }
      row.appendChild(bar);
    });
    tip.appendChild(row);
    var ends = document.createElement("small");
    var last = coefficients.length - 1;
    ends.textContent = "coefficients " + coefficients[0] + " at step " + steps[0] + (last > 0 ? " … " + coefficients[last] + " at step " + steps[last] : "");
    tip.appendChild(ends);
  }
  function place(x, y) {
    var box = tip.getBoundingClientRect();
    var left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8));
    var top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.transform = "translate(" + left + "px," + Math.max(4, top) + "px)";
  }
  function pointed(event) {
    var element = event.target.closest(".mark");
    if (element === null || tip.hidden) { return; }
    if (element.hasAttribute("data-tip")) { element.setAttribute("aria-label", element.getAttribute("data-tip")); }
    if (element.hasAttribute("data-w")) { bars(element); }
    place(event.clientX, event.clientY);
  }
  document.addEventListener("pointermove", pointed);
  document.addEventListener("pointerdown", pointed);
  document.addEventListener("focusin", function (event) {
    var element = event.target.closest(".mark");
    if (element === null || !element.matches(":focus-visible")) { return; }
    var title = element.querySelector("title");
    var text = element.getAttribute("data-tip") || (title === null ? "" : title.textContent);
    if (text === "") { return; }
    tip.textContent = text;
    tip.hidden = false;
    if (element.hasAttribute("data-w")) { bars(element); }
    var box = element.getBoundingClientRect();
    place(box.right - 8, box.bottom - 12);
  });
  document.addEventListener("focusout", function () { tip.hidden = true; });
  document.addEventListener("keydown", function (event) { if (event.key === "Escape") { tip.hidden = true; } });

  // A click, or Enter, opens what is known of a merge: coefficients, digests, the command that makes it again.
  var facts = document.createElement("dialog");
  facts.id = "facts";
  facts.setAttribute("aria-labelledby", "facts-name");
  document.body.appendChild(facts);
  function add(parent, name, text) {
    var element = document.createElement(name);
    if (text !== undefined) { element.textContent = text; }
    parent.appendChild(element);
    return element;
  }
  function open(mark) {
    var windows = document.getElementById("w" + mark.getAttribute("data-w"));
    if (windows === null) { return; }
    var title = mark.querySelector("title");
    var lines = (mark.getAttribute("data-tip") || (title === null ? "" : title.textContent)).split("\n");
    tip.hidden = true;
    facts.textContent = "";
    add(facts, "h2", lines[0]).id = "facts-name";
    add(facts, "p", lines.slice(1).filter(function (line) { return line.indexOf("of steps ") !== 0; }).join("\n"));
    var list = add(facts, "dl");
    windows.getAttribute("data-f").split("\n").forEach(function (fact) {
      var parts = fact.split("\t");
      add(list, "dt", parts[0]);
      add(list, "dd", parts[1]);
    });
    var table = add(facts, "table");
    var head = add(add(table, "thead"), "tr");
    ["step", "coefficient"].forEach(function (name) { add(head, "th", name).setAttribute("scope", "col"); });
    var body = add(table, "tbody");
    var coefficients = windows.getAttribute("data-c").split(" ");
    windows.getAttribute("data-s").split(" ").forEach(function (step, i) {
      var row = add(body, "tr");
      add(row, "td", step);
      add(row, "td", coefficients[i]);
    });
    var close = add(facts, "button", "Close");
    close.type = "button";
    close.autofocus = true;
    close.addEventListener("click", function () { facts.close(); });
    facts.showModal();
  }
  document.addEventListener("click", function (event) {
    if (event.target === facts) { facts.close(); return; }
    var mark = event.target.closest(".mark[data-w]");
    if (mark !== null) { open(mark); }
  });
  document.addEventListener("keydown", function (event) {
    var mark = event.key === "Enter" ? event.target.closest(".mark[data-w]") : null;
    if (mark !== null) { event.preventDefault(); open(mark); }
  });

  // One stop of the tab key for each picture; arrows walk along its marks from left to right.
  function attachChart(chart) {
    var marks = Array.prototype.slice.call(chart.querySelectorAll(".mark"));
    if (marks.length === 0) { return; }
    function left(mark) { return mark.getBBox().x; }
    var sorted = null;
    marks[0].setAttribute("tabindex", "0");
    chart.addEventListener("keydown", function (event) {
      var step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (step === undefined) { return; }
      if (sorted === null) { sorted = marks.slice().sort(function (a, b) { return left(a) - left(b); }); }
      var at = sorted.indexOf(event.target);
      if (at === -1) { return; }
      event.preventDefault();
      sorted[at].setAttribute("tabindex", "-1");
      var next = sorted[Math.max(0, Math.min(sorted.length - 1, at + step))];
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  }
  document.addEventListener("content", function () {
    attachChoosers();
    all(".chart").forEach(attachChart);
  });
  document.dispatchEvent(new Event("content"));
})();
