(function () {
  var tip = document.getElementById("tip");
  function titleOf(element) {
    var first = element.firstElementChild;
    return first === null ? null : first.localName === "title" ? first : null;
  }
  function show(event) {
    var element = event.target.closest(".mark, .bar");
    if (element === null) { tip.hidden = true; return; }
    var title = titleOf(element);
    if (title !== null) { element.setAttribute("data-tip", title.textContent); title.remove(); }
    var text = element.getAttribute("data-tip");
    if (text === null) { tip.hidden = true; return; }
    tip.textContent = text;
    tip.hidden = false;
    var box = tip.getBoundingClientRect();
    var x = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    var y = event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18;
    tip.style.transform = "translate(" + Math.max(4, x) + "px," + Math.max(4, y) + "px)";
  }
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", function () { tip.hidden = true; }, { passive: true });
  // What belongs to the content is done again when a live page has new content.
  document.addEventListener("content", function () { document.querySelectorAll(".command").forEach(function (command) {
    var pre = command.nextElementSibling;
    var button = document.createElement("button");
    button.className = "copy";
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", function () {
      navigator.clipboard.writeText(pre.textContent).then(function () { button.textContent = "Copied"; });
    });
    command.appendChild(button);
  });
  // Commands are broken between words, not at the hyphens of their options and paths.
  document.querySelectorAll("pre").forEach(function (pre) {
    var parts = pre.textContent.split(/(\s+)/);
    pre.textContent = "";
    parts.forEach(function (part) {
      var isShort = part.indexOf("-") >= 0 ? 36 > part.length : false;
      var word = isShort ? document.createElement("span") : document.createTextNode(part);
      word.textContent = part;
      if (isShort) { word.className = "word"; }
      pre.appendChild(word);
    });
  }); });
})();
