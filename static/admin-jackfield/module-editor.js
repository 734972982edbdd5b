// The editor of a module's definition: line numbers, faults as one types, start parameters as rows, @ for their names.
// Without it the page still saves, and marks the faults of what was saved.
(function () {
  "use strict";

  var form = document.getElementById("module-form");
  var text = document.getElementById("source");
  if (!form || !text || text.readOnly) return;

  var editor = form.querySelector("[data-editor]");
  var gutter = form.querySelector("[data-gutter]");
  var marks = form.querySelector("[data-marks]");
  var status = form.querySelector("[data-status]");
  var list = form.querySelector("[data-faults]");
  var dirty = form.querySelector("[data-dirty]");
  var table = form.querySelector("[data-rows] tbody");
  var count = form.elements["p-count"];
  var saved = text.value;
  var leaving = false;
  var asked = 0;
  var timer = 0;
  var faults = readFaults();

  document.querySelectorAll("[data-without-script]").forEach(function (one) { one.hidden = true; one.style.display = "none"; });

  // -- Lines and faults --------------------------------------------------------------------------------------------
  function readFaults() {
    return Array.from(gutter.querySelectorAll(".jf-fault")).map(function (one) {
      return { line: Number(one.textContent), message: one.title };
    });
  }

  function drawLines() {
    var lines = text.value.split("\n").length;
    text.rows = lines;
    var said = {};
    faults.forEach(function (fault) {
      if (fault.line) said[fault.line] = (said[fault.line] ? said[fault.line] + " " : "") + fault.message;
    });
    var numbers = document.createDocumentFragment();
    var bands = document.createDocumentFragment();
    for (var number = 1; number <= lines; number += 1) {
      var one = document.createElement("span");
      one.textContent = number;
      if (said[number]) {
        one.className = "jf-fault";
        one.id = "line-" + number;
        one.title = said[number];
        var band = document.createElement("i");
        band.style.setProperty("--line", number);
        bands.appendChild(band);
      }
      numbers.appendChild(one);
    }
    gutter.replaceChildren(numbers);
    marks.replaceChildren(bands);
  }

  function drawFaults() {
    status.classList.toggle("jf-has", faults.length > 0);
    status.classList.remove("jf-checking");
    var head = faults.length ? faults.length + (faults.length === 1 ? " fault" : " faults") : "No faults";
    var line = status.querySelector(".jf-faults-head");
    if (line.textContent !== head) line.textContent = head;
    text.setAttribute("aria-invalid", faults.length ? "true" : "false");
    list.replaceChildren.apply(list, faults.map(function (fault) {
      var item = document.createElement("li");
      if (fault.line) {
        var link = document.createElement("a");
        link.className = "jf-link";
        link.href = "#line-" + fault.line;
        link.dataset.line = fault.line;
        link.textContent = "Line " + fault.line;
        item.append(link, " ");
      }
      if (fault.path) {
        var path = document.createElement("code");
        path.textContent = fault.path;
        item.append(path, " ");
      }
      item.append(fault.message);
      return item;
    }));
  }

  status.addEventListener("click", function (event) {
    var link = event.target.closest("[data-line]");
    if (!link) return;
    event.preventDefault();
    var lines = text.value.split("\n");
    var at = lines.slice(0, Number(link.dataset.line) - 1).join("\n").length + (Number(link.dataset.line) > 1 ? 1 : 0);
    text.focus({ preventScroll: true });
    text.setSelectionRange(at, at + (lines[Number(link.dataset.line) - 1] || "").length);
    editor.scrollTop = Math.max(0, (Number(link.dataset.line) - 5) * rowHeight());
    editor.scrollIntoView({ block: "nearest" });
  });

  function rowHeight() { return parseFloat(getComputedStyle(text).lineHeight) || 20; }

  // -- Asking the server -------------------------------------------------------------------------------------------
  function isTooLarge() { return new Blob([text.value]).size > 1024 * 1024; }

  function tellTooLarge() {
    asked += 1;
    faults = [{ path: "", message: "A definition has at most 1 MB." }];
    drawFaults();
  }

  function ask(apply) {
    if (isTooLarge()) { tellTooLarge(); return Promise.resolve(); }
    var number = (asked += 1);
    var before = text.value;
    var body = new FormData(form);
    if (apply) body.set("apply", apply);
    status.classList.add("jf-checking");
    return fetch(form.dataset.assist, { method: "POST", body: body, headers: { Accept: "application/json" } })
      .then(function (answer) { if (!answer.ok) throw new Error(answer.status); return answer.json(); })
      .then(function (answer) {
        if (number !== asked || text.value !== before) { if (apply) later(0); return; }
        if (answer.source !== text.value) replaceAll(answer.source);
        faults = answer.faults;
        if (answer.refusal) faults = [{ path: "", message: answer.refusal }].concat(faults);
        drawLines();
        drawFaults();
        if (answer.rows) drawRows(answer.rows);
        if (answer.access) chooseAccess(answer.access);
      })
      .catch(function () {
        if (number === asked) {
          status.classList.remove("jf-checking");
          status.querySelector(".jf-faults-head").textContent = "Could not be checked: the server did not answer";
        }
      });
  }

  function later(wait) {
    clearTimeout(timer);
    timer = setTimeout(function () { ask(""); }, wait);
  }

  function changed() {
    if (text.rows !== text.value.split("\n").length) drawLines();
    if (dirty) dirty.hidden = text.value === saved;
  }

  text.addEventListener("input", function () { changed(); later(400); suggest(); });

  // A change that the browser's own undo can take back; only what differs is replaced.
  function insert(from, to, what) {
    text.focus({ preventScroll: true });
    text.setSelectionRange(from, to);
    var done = false;
    try {
      done = what ? document.execCommand("insertText", false, what) : document.execCommand("delete");
    } catch (error) { done = false; }
    if (!done) {
      text.setRangeText(what, from, to, "end");
      text.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }

  function replaceAll(wanted) {
    var old = text.value;
    var start = 0;
    while (start < old.length && start < wanted.length && old[start] === wanted[start]) start += 1;
    var end = 0;
    while (end < old.length - start && end < wanted.length - start && old[old.length - 1 - end] === wanted[wanted.length - 1 - end]) end += 1;
    var focused = document.activeElement;
    insert(start, old.length - end, wanted.slice(start, wanted.length - end));
    if (focused && focused !== text) focused.focus({ preventScroll: true });
    changed();
  }

  // -- Keys --------------------------------------------------------------------------------------------------------
  var leaves = false;  // after Esc, Tab leaves the text, so that nobody is caught in it

  text.addEventListener("keydown", function (event) {
    if (menu && onMenuKey(event)) return;
    if (event.key === "Escape") { leaves = true; return; }
    if (event.key === "Tab" && !leaves && !event.ctrlKey && !event.altKey && !event.metaKey) {
      event.preventDefault();
      indent(event.shiftKey);
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      newLine();
    } else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "s") {
      event.preventDefault();
      form.requestSubmit(form.querySelector("[data-save]"));
    }
    if (event.key !== "Shift" && event.key !== "Tab") leaves = false;
  });
  text.addEventListener("blur", function () { leaves = false; setTimeout(closeMenu, 150); });

  function indent(back) {
    var from = text.selectionStart;
    var to = text.selectionEnd;
    var begin = text.value.lastIndexOf("\n", from - 1) + 1;
    if (from === to && !back) { insert(from, to, " ".repeat(2 - ((from - begin) % 2))); return; }
    var lines = text.value.slice(begin, to).split("\n");
    var moved = lines.map(function (line) { return back ? line.replace(/^ {1,2}/, "") : line ? "  " + line : line; });
    if (moved.join("\n") === lines.join("\n")) return;
    insert(begin, to, moved.join("\n"));
    var end = begin + moved.join("\n").length;
    if (from === to) text.setSelectionRange(Math.max(begin, from - (lines[0].length - moved[0].length)), Math.max(begin, from - (lines[0].length - moved[0].length)));
    else text.setSelectionRange(begin, end);
  }

  function newLine() {
    var from = text.selectionStart;
    var line = text.value.slice(text.value.lastIndexOf("\n", from - 1) + 1, from);
    var space = line.match(/^ */)[0];
    if (/(:|[|>][+-]?)\s*$/.test(line) && !/^\s*#/.test(line)) space += /^\s*- /.test(line) ? "    " : "  ";
    insert(from, text.selectionEnd, "\n" + space);
  }

  // -- @ for a start parameter -------------------------------------------------------------------------------------
  var menu = null;

  function parameters() {
    return Array.from(table.rows).map(function (row) {
      return { name: part(row, "name").value.trim(), api: part(row, "api_name").value.trim() };
    }).filter(function (one) { return one.api; });
  }

  function part(row, name) { return row.querySelector('[name$="-' + name + '"]'); }

  function suggest() {
    var at = text.selectionStart;
    var begin = text.value.lastIndexOf("\n", at - 1) + 1;
    var line = text.value.slice(begin, at);
    var match = line.match(/(^|[^\w@.])@([^@{}"']{0,40})$/);
    var found = match ? parameters().filter(function (one) {
      var typed = match[2].toLowerCase();
      return one.name.toLowerCase().indexOf(typed) !== -1 || one.api.toLowerCase().indexOf(typed) !== -1;
    }) : [];
    if (!found.length || text.selectionEnd !== at) { closeMenu(); return; }
    openMenu(found.slice(0, 20), at - match[2].length - 1, line.slice(0, line.length - match[2].length - 1));
  }

  function openMenu(found, from, before) {
    closeMenu();
    menu = { from: from, found: found, at: 0, box: document.createElement("div") };
    menu.box.className = "jf-suggest";
    menu.box.id = "suggestions";
    menu.box.setAttribute("role", "listbox");
    menu.box.setAttribute("aria-label", "Start parameters");
    found.forEach(function (one, index) {
      var option = document.createElement("div");
      option.setAttribute("role", "option");
      option.id = "suggestion-" + index;
      option.textContent = one.name || one.api;
      var small = document.createElement("small");
      small.textContent = one.api;
      option.appendChild(small);
      option.addEventListener("mousedown", function (event) { event.preventDefault(); menu.at = index; take(); });
      menu.box.appendChild(option);
    });
    var rows = text.value.slice(0, from).split("\n").length;
    menu.box.style.top = 8 + rows * rowHeight() + 2 + "px";
    editor.appendChild(menu.box);
    var most = editor.clientWidth - menu.box.offsetWidth - 8;
    menu.box.style.left = Math.max(0, Math.min(text.offsetLeft + 12 + widthOf(before) - text.scrollLeft, most)) + "px";
    var above = 8 + (rows - 1) * rowHeight() - menu.box.offsetHeight - 2;
    var isBelow = menu.box.offsetTop + menu.box.offsetHeight > editor.scrollTop + editor.clientHeight;
    if (isBelow && above >= editor.scrollTop) menu.box.style.top = above + "px";
    text.setAttribute("aria-controls", "suggestions");
    text.setAttribute("aria-autocomplete", "list");
    pick(0);
  }

  function widthOf(what) {
    var context = document.createElement("canvas").getContext("2d");
    var style = getComputedStyle(text);
    context.font = style.fontSize + " " + style.fontFamily;
    return context.measureText(what).width;
  }

  function pick(index) {
    menu.at = (index + menu.found.length) % menu.found.length;
    Array.from(menu.box.children).forEach(function (option, number) {
      option.setAttribute("aria-selected", number === menu.at ? "true" : "false");
    });
    menu.box.children[menu.at].scrollIntoView({ block: "nearest" });
    text.setAttribute("aria-activedescendant", "suggestion-" + menu.at);
  }

  function onMenuKey(event) {
    if (event.key === "ArrowDown") pick(menu.at + 1);
    else if (event.key === "ArrowUp") pick(menu.at - 1);
    else if (event.key === "Enter" || event.key === "Tab") take();
    else if (event.key === "Escape") closeMenu();
    else return false;
    event.preventDefault();
    return true;
  }

  // Where the value that `before` ends in begins, if YAML wants it in quotes for what is put there; else -1. A value must
  // not begin with a brace, and inside of brackets it must have none at all.
  function quotedFrom(before) {
    var begin = 0;
    var depth = 0;
    var quote = "";
    for (var index = 0; index < before.length; index += 1) {
      var sign = before[index];
      if (quote) {
        if (sign === "\\" && quote === '"') index += 1;
        else if (sign === quote) quote = "";
      } else if ((sign === '"' || sign === "'") && !before.slice(begin, index).trim()) {
        quote = sign;
      } else if ((sign === "{" || sign === "[") && !before.slice(begin, index).trim()) {
        depth += 1;
        begin = index + 1;
      } else if (depth && (sign === "}" || sign === "]")) {
        depth -= 1;
      } else if ((depth && sign === ",") || ((sign === ":" || (sign === "-" && !before.slice(0, index).trim())) && before[index + 1] === " ")) {
        begin = index + 1;
      }
    }
    if (quote || inBlockText()) return -1;
    var value = before.slice(begin);
    return depth || !value.trim() ? begin + value.length - value.trimStart().length : -1;
  }

  function inBlockText() {
    var lines = text.value.slice(0, text.selectionStart).split("\n");
    var own = lines[lines.length - 1].match(/^ */)[0].length;
    for (var index = lines.length - 2; index >= 0; index -= 1) {
      if (!lines[index].trim()) continue;
      var depth = lines[index].match(/^ */)[0].length;
      if (depth < own) return /[|>][+-]?\d?\s*(#.*)?$/.test(lines[index]);
    }
    return false;
  }

  function take() {
    var what = "{{ start." + menu.found[menu.at].api + " }}";
    var at = text.selectionEnd;
    var from = menu.from;
    var begin = text.value.lastIndexOf("\n", from - 1) + 1;
    var quoted = quotedFrom(text.value.slice(begin, from));
    if (quoted !== -1) {
      var rest = text.value.slice(at).match(/^[^,}\]\n"']*/)[0].trimEnd();
      what = '"' + text.value.slice(begin + quoted, from) + what + rest + '"';
      from = begin + quoted;
      at += rest.length;
    }
    closeMenu();
    insert(from, at, what);
    closeMenu();
  }

  function closeMenu() {
    if (!menu) return;
    menu.box.remove();
    menu = null;
    text.removeAttribute("aria-activedescendant");
    text.removeAttribute("aria-controls");
  }

  // -- Start parameters as rows ------------------------------------------------------------------------------------
  table.querySelectorAll("[data-remove-row]").forEach(function (button) { button.hidden = false; });

  function drawRows(rows) {
    var focused = document.activeElement && table.contains(document.activeElement) ? document.activeElement : null;
    if (focused && focused.value !== focused.defaultValue && focused.type === "text") return;  // still being typed
    var name = focused ? focused.name : "";
    while (table.rows.length > 1) table.rows[0].remove();
    var blank = table.rows[0];
    fill(blank, rows.length, null);
    rows.forEach(function (row, number) {
      var copy = blank.cloneNode(true);
      fill(copy, number, row);
      table.insertBefore(copy, blank);
    });
    count.value = rows.length + 1;
    if (name && form.elements[name]) form.elements[name].focus({ preventScroll: true });
  }

  function fill(row, number, data) {
    row.querySelectorAll("[name]").forEach(function (input) {
      var member = input.name.replace(/^p-\d+-/, "");
      input.name = "p-" + number + "-" + member;
      if (input.type === "checkbox") { input.checked = input.defaultChecked = Boolean(data && data.required); return; }
      var value = data ? data[member] : member === "type" ? "text" : "";
      input.value = value === null || value === undefined ? "" : value;
      if (input.tagName === "INPUT") input.defaultValue = input.value;
      if (data) input.removeAttribute("placeholder");
    });
    var cell = row.cells[row.cells.length - 1];
    cell.replaceChildren();
    if (data) cell.appendChild(removeButton(data.name));
  }

  function removeButton(name) {
    var button = document.createElement("button");
    var icon = document.createElement("span");
    button.type = "button";
    button.className = "jf-icon";
    button.dataset.removeRow = "";
    button.setAttribute("aria-label", "Remove " + name);
    icon.className = "material-symbols-outlined";
    icon.setAttribute("aria-hidden", "true");
    icon.textContent = "delete";
    button.appendChild(icon);
    return button;
  }

  table.addEventListener("click", function (event) {
    var button = event.target.closest("[data-remove-row]");
    if (!button) return;
    var row = button.closest("tr");
    part(row, "name").value = part(row, "api_name").value = "";
    ask("parameters");
  });

  table.addEventListener("change", function (event) {
    var row = event.target.closest("tr");
    if (event.target === part(row, "name") && !part(row, "api_name").value.trim()) {
      part(row, "api_name").value = apiName(event.target.value);
    }
    if (!part(row, "name").value.trim() && !part(row, "api_name").value.trim()) {
      if (!part(row, "index").value) return;  // the empty row
    }
    if (event.target.tagName === "INPUT") event.target.defaultValue = event.target.value;
    ask("parameters");
  });

  function apiName(name) {
    var found = name.toLowerCase().replace(/[^a-z0-9]+/g, "_").replace(/^_+|_+$/g, "").slice(0, 60);
    return /^[a-z]/.test(found) || !found ? found : "p_" + found;
  }

  // -- Access ------------------------------------------------------------------------------------------------------
  document.querySelectorAll('[name="access"][form="module-form"]').forEach(function (radio) {
    radio.addEventListener("change", function () { ask("access"); });
  });

  function chooseAccess(access) {
    document.querySelectorAll('[name="access"][form="module-form"]').forEach(function (radio) {
      radio.checked = radio.value === access;
    });
  }

  // -- Leaving -----------------------------------------------------------------------------------------------------
  form.addEventListener("submit", function (event) {
    leaving = !isTooLarge();
    if (leaving) return;
    event.preventDefault();
    tellTooLarge();
  });
  window.addEventListener("beforeunload", function (event) {
    if (!leaving && text.value !== saved) event.preventDefault();
  });
  // After a refused save the text is not what is stored.
  if (form.querySelector(".jf-faults-head").textContent.indexOf("not saved") !== -1) { saved = null; if (dirty) dirty.hidden = false; }

  text.addEventListener("click", closeMenu);
  drawLines();
})();
