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

  // The blocks of an element as the server sent them: scripts change what is shown, so that it cannot be compared itself.
  var LARGE = 20000;
  function blocksOf(parent) {
    return Array.prototype.map.call(parent.childNodes, function (node) {
      var html = node.outerHTML === undefined ? node.textContent : node.outerHTML;
      var block = { html: html, head: null, blocks: null };
      if (html.length > LARGE && node.childElementCount > 1) {
        block.head = node.cloneNode(false).outerHTML;
        block.blocks = blocksOf(node);
      }
      return block;
    });
  }
  function isSame(a, b) { return a.html === b.html; }
  // Replaces the blocks that changed, and goes into those that only have other blocks. What is left keeps its state.
  function replaceBlocks(shownParent, before, sent, after) {
    var first = 0;
    while (before.length > first && after.length > first && isSame(before[first], after[first])) { first += 1; }
    var last = 0;
    while (before.length - last > first && after.length - last > first
      && isSame(before[before.length - 1 - last], after[after.length - 1 - last])) { last += 1; }
    var old = Array.prototype.slice.call(shownParent.childNodes, first, before.length - last);
    var fresh = Array.prototype.slice.call(sent.childNodes, first, after.length - last);
    fresh.forEach(function (node, i) {
      var was = before[first + i], is = after[first + i];
      if (i >= old.length) {
        shownParent.insertBefore(node, shownParent.childNodes[first + i] || null);
      } else if (!isSame(was, is)) {
        if (was.blocks !== null && is.blocks !== null && was.head === is.head && old[i].childNodes.length === was.blocks.length) {
          replaceBlocks(old[i], was.blocks, node, is.blocks);
        } else {
          shownParent.replaceChild(node, old[i]);
        }
      }
    });
    old.slice(fresh.length).forEach(function (node) { node.remove(); });
  }
  var blocks = null;
  function replace(html, revision) {
    var open = {};
    content.querySelectorAll("details[open] > summary").forEach(function (summary) { open[summary.textContent] = true; });
    var element = document.activeElement;
    var focused = content.contains(element) ? pathTo(element) : null;
    var template = document.createElement("template");
    template.innerHTML = html;
    var sent = blocksOf(template.content);
    if (blocks === null || content.childNodes.length !== blocks.length) {
      content.replaceChildren(template.content);
    } else {
      replaceBlocks(content, blocks, template.content, sent);
    }
    blocks = sent;
    content.querySelectorAll("details > summary").forEach(function (summary) {
      if (open[summary.textContent]) { summary.parentNode.open = true; }
    });
    shown = revision;
    content.setAttribute("data-revision", revision);
    document.dispatchEvent(new Event("content"));
    if (focused !== null && document.activeElement !== element) {
      var next = focused.reduce(function (element, i) { return element && element.children[i]; }, content);
      if (next) { next.focus({ preventScroll: true }); }
    }
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
