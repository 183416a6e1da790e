(function () {
  var content = document.getElementById("content");
  var bar = document.getElementById("live");
  var shown = content.getAttribute("data-revision");
  var wanted = shown;
  var isBusy = false;

  function say(state, text) {
    document.body.setAttribute("data-live", state);
    if (bar.textContent !== text) { bar.textContent = text; }
  }

  // Where an element is within the content, so that its successor gets the focus.
  function pathTo(element) {
    var path = [];
    while (element !== null && element !== content) {
      path.unshift(Array.prototype.indexOf.call(element.parentNode.children, element));
      element = element.parentElement;
    }
    return path;
  }
  function replace(html, revision) {
    var open = {};
    content.querySelectorAll("details[open] > summary").forEach(function (summary) { open[summary.textContent] = true; });
    var focused = content.contains(document.activeElement) ? pathTo(document.activeElement) : null;
    var top = scrollY;
    var template = document.createElement("template");
    template.innerHTML = html;
    content.replaceChildren(template.content);
    content.querySelectorAll("details > summary").forEach(function (summary) {
      if (open[summary.textContent]) { summary.parentNode.open = true; }
    });
    shown = revision;
    content.setAttribute("data-revision", revision);
    document.dispatchEvent(new Event("content"));
    if (focused !== null) {
      var next = focused.reduce(function (element, i) { return element && element.children[i]; }, content);
      if (next) { next.focus({ preventScroll: true }); }
    }
    scrollTo(scrollX, top);
  }

  // A page that is not looked at is brought up to date once it is.
  function update() {
    if (isBusy || document.hidden || wanted === shown) { return; }
    isBusy = true;
    var revision = null;
    fetch("content", { cache: "no-store" }).then(function (answer) {
      if (!answer.ok) { throw new Error("status " + answer.status); }
      revision = answer.headers.get("Revision");
      return answer.text();
    }).then(function (html) {
      var begun = performance.now();
      replace(html, revision);
      performance.measure("update", { start: begun, end: performance.now() });
      say("on", "Live; updated " + new Date().toLocaleTimeString());
      isBusy = false;
      update();
    }, function () {
      isBusy = false;
      setTimeout(update, 3000);
    });
  }

  function connect() {
    var source = new EventSource("events");
    source.onopen = function () { say("on", "Live"); };
    source.onmessage = function (event) { wanted = event.data; update(); };
    source.onerror = function () {
      say("off", "Not connected; trying again");
      // A server that refuses ends the attempts of the browser itself.
      if (source.readyState === EventSource.CLOSED) { setTimeout(connect, 3000); }
    };
  }
  document.addEventListener("visibilitychange", update);
  connect();
})();
