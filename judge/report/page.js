"use strict";
// The browser of rows. Whatever stands in a row reaches the page as text (textContent), never as markup.
(() => {
  const $ = (id) => document.getElementById(id);
  const index = JSON.parse($("index").textContent);
  const { columns, starts, scale, names, verdicts } = index;
  const NONE = 3; // of verdicts: undecided; of labels: none
  const VERDICT = [...verdicts, "undecided"];
  const KEPT_CHUNKS = 6;
  const number = (value) => value.toLocaleString("en");
  const percent = (value) => (value * 100).toFixed(1) + "%";

  // ---- elements and text -------------------------------------------------------------------------------------------

  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === false) continue;
      if (key === "class") node.className = value;
      else if (key === "text") node.textContent = value;
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  // What a reader cannot see but a text can hold: controls, direction overrides and isolates, invisible spaces, tags.
  // Tags that draw a flag stay, and so do joiners and direction marks, which many scripts need.
  const HIDDEN =
    /\u{1F3F4}[\u{E0020}-\u{E007E}]+\u{E007F}|\r\n|[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u00AD\u200B\u2028-\u202E\u2060-\u206F\uFEFF\uFFF9-\uFFFB\u{E0000}-\u{E007F}]/gu;

  function mark(character) {
    const code = "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    return el("span", { class: "hidden-character", title: "a character that is not visible", text: code });
  }

  /** Fill a node with text, in its own direction; what is not visible is shown as its code. */
  function fill(node, text) {
    node.dir = "auto";
    let from = 0;
    for (const match of text.matchAll(HIDDEN)) {
      if (match[0].length > 2) continue; // a flag
      node.append(text.slice(from, match.index));
      node.append(match[0] === "\r\n" ? "\n" : mark(match[0]));
      from = match.index + match[0].length;
    }
    node.append(text.slice(from));
    return node;
  }

  const isolated = (text, className = null) => fill(el("bdi", { class: className }), text);

  function badge(verdict, title) {
    const letter = ["A", "B", "tie", "–"][verdict];
    return el("span", { class: "badge v" + verdict, title, text: letter });
  }

  // ---- chunks of texts ---------------------------------------------------------------------------------------------

  const chunks = new Map(); // number → promise of rows, the latest used last

  async function decode(chunk) {
    const packed = atob($("chunk-" + chunk).textContent);
    const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    document.documentElement.dataset.decoded = Number(document.documentElement.dataset.decoded || 0) + 1;
    return JSON.parse(await new Response(stream).text());
  }

  function chunkRows(chunk) {
    const found = chunks.get(chunk) || decode(chunk);
    chunks.delete(chunk);
    chunks.set(chunk, found);
    if (chunks.size > KEPT_CHUNKS) chunks.delete(chunks.keys().next().value);
    return found;
  }

  function chunkOf(row) {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async function textsOf(row) {
    const chunk = chunkOf(row);
    return (await chunkRows(chunk))[row - starts[chunk]];
  }

  // ---- filters -----------------------------------------------------------------------------------------------------

  const flagBit = (words) => Number(Object.keys(index.flag_words).find((bit) => index.flag_words[bit] === words));
  const hasFlag = (bit) => (row) => (columns.flags[row] & bit) !== 0;
  const isWrong = (row) =>
    columns.label[row] >= 0 && columns.verdict[row] !== NONE && columns.verdict[row] !== columns.label[row];
  const surest = (row) => Math.max(columns.p_a[row], columns.p_b[row], columns.p_tie[row]) / scale;

  const QUICK = [
    ["Wrong and confident", (row) => isWrong(row) && surest(row) >= index.confident,
      `the judge is wrong and gives its verdict at least ${index.confident * 100}%`],
    ["Ties", (row) => columns.label[row] === 2 || columns.verdict[row] === 2, "the human's or the judge's verdict is a tie"],
    ["Flips under swap", (row) => columns.flips[row] === 1, "the verdict changes when B is shown first"],
    ["Cut", (row) => columns.cut[row] === 1, "the prompt was cut to fit"],
    ["Identical", hasFlag(flagBit("A and B identical")), "A and B are the same text"],
    ["Not scored", hasFlag(flagBit("not scored")), "the judge gave no verdict"],
  ];

  const bucketOf = (row) => index.edges.filter((edge) => columns.characters[row] >= edge).length;
  const bucketName = (bucket) => {
    const { edges } = index;
    if (bucket === 0) return `under ${number(edges[0])} characters`;
    if (bucket === edges.length) return `${number(edges[bucket - 1])} characters or more`;
    return `${number(edges[bucket - 1])} to ${number(edges[bucket] - 1)} characters`;
  };
  const outcome = (row) => {
    if (columns.label[row] < 0) return 3;
    return columns.verdict[row] === NONE ? 2 : Number(isWrong(row));
  };
  // Each facet: its name, the keys of a row, and what a key is called; `order` sorts the keys.
  const byKey = (a, b) => a - b;
  const FACETS = [
    ["Judge is", (row) => [outcome(row)], (key) => ["right", "wrong", "undecided", "without a label to meet"][key]],
    ["Human's verdict", (row) => [columns.label[row] < 0 ? NONE : columns.label[row]], (key) => [...verdicts, "none"][key]],
    ["Judge's verdict", (row) => [columns.verdict[row]], (key) => VERDICT[key]],
    ["Language", (row) => [columns.language[row]], (key) => names.language[key] || "not known", "count"],
    ["Length", (row) => [bucketOf(row)], bucketName],
    ["Turns", (row) => [columns.turns[row]], (key) => number(key)],
    ["Swap", (row) => [columns.flips[row]], (key) => ({ "-1": "read in one order", 0: "same verdict", 1: "flips" })[key]],
    ["Flag", (row) => bits(columns.flags[row]), (key) => index.flag_words[key], "count"],
    ["Source", (row) => [columns.source[row]], (key) => names.source[key] || "not known", "count"],
  ].map(([name, keys, words, sort]) => ({ name, keys, words, sort, chosen: "" }));

  function bits(flags) {
    const found = [];
    for (const bit of Object.keys(index.flag_words)) if (flags & bit) found.push(Number(bit));
    return found;
  }

  function buildQuick() {
    for (const [name, test, title] of QUICK) {
      let count = 0;
      for (let row = 0; row < index.rows; row++) count += test(row);
      const button = el("button", { type: "button", class: "chip", "aria-pressed": "false", title, disabled: count === 0 },
        name + " ", el("span", { class: "amount", text: number(count) }));
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        refresh();
      });
      $("quick").append(button);
    }
  }

  const pressed = () => QUICK.filter((_, i) => $("quick").children[i].getAttribute("aria-pressed") === "true");

  function buildFacets() {
    for (const [position, facet] of FACETS.entries()) {
      const counts = new Map();
      for (let row = 0; row < index.rows; row++) {
        for (const key of facet.keys(row)) counts.set(key, (counts.get(key) || 0) + 1);
      }
      if (counts.size < (facet.name === "Flag" ? 1 : 2)) continue;
      const keys = [...counts.keys()].sort(byKey);
      if (facet.sort === "count") keys.sort((a, b) => counts.get(b) - counts.get(a));
      const id = "facet-" + position;
      const select = el("select", { id });
      select.append(el("option", { value: "", text: "any" }));
      for (const key of keys) {
        const option = el("option", { value: String(key) });
        option.textContent = `${visible(facet.words(key))} (${number(counts.get(key))})`;
        select.append(option);
      }
      select.addEventListener("change", () => { facet.chosen = select.value; refresh(); });
      facet.select = select;
      $("facets").append(el("div", { class: "facet" }, el("label", { for: id, text: facet.name }), select));
    }
  }

  /** Text for places that hold no elements, such as options: what is not visible is left out, what is long is cut. */
  function visible(text) {
    const clean = text.replace(HIDDEN, "\uFFFD");
    return clean.length > 60 ? clean.slice(0, 60) + "…" : clean;
  }

  // ---- the list ----------------------------------------------------------------------------------------------------

  const list = $("list");
  const spacer = $("spacer");
  let shown = []; // rows of the list, in its order
  let place = -1; // of the opened row in the list
  let opened = -1; // the opened row
  let lowered = null; // ids and previews in lower case, once something is searched
  let found = null; // rows whose texts hold what was searched, once all texts were asked
  const rowHeight = () => parseFloat(getComputedStyle(list).getPropertyValue("--row-height")) || 56;

  function matches(needle) {
    if (!needle) return () => true;
    lowered ||= columns.id.map((id, row) => (id + "\n" + columns.preview[row]).toLowerCase());
    return (row) => lowered[row].includes(needle) || (found !== null && found.has(row));
  }

  const entropy = (row) =>
    [columns.p_a[row], columns.p_b[row], columns.p_tie[row]].reduce((sum, p) => sum - (p ? (p / scale) * Math.log(p / scale) : 0), 0);

  function ordered(rows) {
    const order = $("order").value;
    if (order === "table") return rows;
    const keys = order === "loss" ? (row) => columns.loss[row] ?? -1 : entropy;
    const values = new Map(rows.map((row) => [row, keys(row)]));
    return rows.sort((a, b) => values.get(b) - values.get(a) || a - b);
  }

  const needle = () => $("search").value.trim().toLowerCase();

  function refresh() {
    const tests = pressed().map(([, test]) => test);
    const chosen = FACETS.filter((facet) => facet.chosen !== "");
    for (const facet of chosen) tests.push((row) => facet.keys(row).includes(Number(facet.chosen)));
    tests.push(matches(needle()));
    const rows = [];
    for (let row = 0; row < index.rows; row++) if (tests.every((test) => test(row))) rows.push(row);
    shown = ordered(rows);
    place = shown.indexOf(opened);
    const all = shown.length === index.rows;
    $("count").textContent = all ? `${number(index.rows)} rows` : `${number(shown.length)} of ${number(index.rows)} rows`;
    $("more-count").textContent = chosen.length ? `(${chosen.length} set)` : "";
    $("clear").hidden = all && tests.length === 1 && !needle();
    spacer.style.height = shown.length * rowHeight() + "px";
    if (place >= 0) reveal();
    else list.scrollTop = 0;
    draw();
  }

  function entry(row, position) {
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    for (const [i, name] of ["p_a", "p_b", "p_tie"].entries()) {
      const part = el("span", { class: "seg v" + i });
      part.style.width = (columns[name][row] / scale) * 100 + "%";
      bar.append(part);
    }
    const label = columns.label[row] < 0 ? NONE : columns.label[row];
    const verdict = columns.verdict[row];
    const node = el("div", {
      id: "option-" + row, class: "entry" + (isWrong(row) ? " wrong" : ""), role: "option",
      "aria-selected": String(row === opened), "aria-setsize": shown.length, "aria-posinset": position + 1,
    });
    const loss = columns.loss[row] === null ? null : (columns.loss[row] / scale).toFixed(2);
    node.append(
      el("span", { class: "who" }, badge(label, "human: " + [...verdicts, "none"][label]),
        el("span", { class: "sr", text: " by the human, by the judge " }), badge(verdict, "judge: " + VERDICT[verdict])),
      el("span", { class: "what" }, isolated(columns.id[row], "id"), isolated(columns.preview[row], "preview")),
      el("span", { class: "how" }, bar,
        el("span", { class: "loss", title: "log loss in nats", text: loss ?? "" })),
    );
    node.style.transform = `translateY(${position * rowHeight()}px)`;
    node.addEventListener("click", () => go(position));
    return node;
  }

  let drawn = "";
  function draw() {
    const height = rowHeight();
    const first = Math.max(Math.floor(list.scrollTop / height) - 4, 0);
    const last = Math.min(Math.ceil((list.scrollTop + list.clientHeight) / height) + 4, shown.length);
    const entries = [];
    for (let position = first; position < last; position++) entries.push(entry(shown[position], position));
    spacer.replaceChildren(...entries);
    if (!shown.length) spacer.append(el("p", { class: "hint", text: "No row is like that." }));
    if (place >= first && place < last) list.setAttribute("aria-activedescendant", "option-" + opened);
    else list.removeAttribute("aria-activedescendant");
    drawn = first + " " + last;
  }

  function scrolled() {
    const height = rowHeight();
    const first = Math.max(Math.floor(list.scrollTop / height) - 4, 0);
    const last = Math.min(Math.ceil((list.scrollTop + list.clientHeight) / height) + 4, shown.length);
    if (drawn !== first + " " + last) draw();
  }

  function reveal() {
    const top = place * rowHeight();
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + rowHeight() > list.scrollTop + list.clientHeight) list.scrollTop = top + rowHeight() - list.clientHeight;
  }

  // ---- the opened row ----------------------------------------------------------------------------------------------

  const pane = $("row");
  const address = (row) => "#row=" + encodeURIComponent(columns.id[row]);

  let telling = 0;
  /** Change the address a moment later: browsers refuse to change it for each row while a key is held down. */
  function tellAddress(hash) {
    clearTimeout(telling);
    telling = setTimeout(() => { if (opened >= 0) history.replaceState(null, "", hash); }, 150);
  }

  /** Open the row at a place of the list. */
  function go(position) {
    if (!shown.length) return;
    const row = shown[Math.min(Math.max(position, 0), shown.length - 1)];
    // the first row opened is a step in the history, so that a phone's back button closes it
    if (opened < 0) location.hash = address(row);
    else tellAddress(address(row));
    show(row);
  }

  async function show(row) {
    if (row === opened) return;
    opened = row;
    place = shown.indexOf(row);
    document.body.classList.add("row-open");
    if (place >= 0) reveal();
    draw();
    let content;
    try {
      const texts = await textsOf(row);
      if (opened !== row) return; // another one was opened meanwhile
      content = [heading(row), verdictTable(row, texts), facts(row, texts), conversation(row, texts)];
    } catch (error) {
      if (opened !== row) return;
      content = [heading(row), el("p", { class: "problem", role: "alert", text: "The texts of this row cannot be read: " +
        (typeof DecompressionStream === "undefined" ? "this browser is too old to unpack them." : String(error)) })];
    }
    pane.replaceChildren(...content);
    const alone = !list.offsetParent; // on a phone
    if (alone || pane.getBoundingClientRect().top < 0) pane.scrollIntoView();
  }

  function close() {
    if (opened < 0) return;
    opened = place = -1;
    document.body.classList.remove("row-open");
    pane.replaceChildren(el("p", { class: "hint", text: "Choose a row." }));
    if (location.hash.startsWith("#row=")) history.replaceState(null, "", "#rows");
    draw();
    list.focus({ preventScroll: true });
  }

  function button(text, label, act, disabled = false) {
    const node = el("button", { type: "button", class: "quiet", "aria-label": label, title: label, text, disabled });
    node.addEventListener("click", act);
    return node;
  }

  function heading(row) {
    const back = button("‹ List", "Back to the list", close);
    back.classList.add("back");
    const position = place < 0 ? "" : `${number(place + 1)} of ${number(shown.length)}`;
    return el("header", { class: "row-head" }, back,
      el("h3", {}, "Row ", isolated(columns.id[row])),
      el("a", { href: address(row), class: "link", text: "Link to this row" }),
      el("span", { class: "steps" }, el("span", { class: "note", text: position }),
        button("‹", "Previous row", () => go(place - 1), place <= 0),
        button("›", "Next row", () => go(place + 1), place < 0 || place === shown.length - 1)));
  }

  function verdictTable(row, texts) {
    const label = columns.label[row];
    const verdict = columns.verdict[row];
    // who, the verdict, and the name of the model that it prefers
    const told = (who, key, nothing, ...more) => el("div", {}, el("span", { class: "cap", text: who }),
      el("span", { class: "what-said" }, badge(key, VERDICT[key]), key === NONE ? nothing : null,
        key < 2 && texts.models[key] ? isolated(texts.models[key]) : null, ...more));
    const call = isWrong(row) ? "wrong" : "right";
    const met = label >= 0 && verdict !== NONE ? el("strong", { class: isWrong(row) ? "bad" : "good", text: call }) : null;
    const said = el("div", { class: "said" }, told("Human", label < 0 ? NONE : label, "no label"), told("Judge", verdict, "undecided", met));
    const orders = [["Judge", texts.p], ["A shown first", texts.first], ["B shown first", texts.second]].filter(([, p]) => p);
    // one order alone is the judge's own figure
    if (!texts.second) orders.splice(1);
    const table = el("table", { class: "probabilities" },
      el("caption", { class: "sr", text: "Probabilities of the verdicts" }),
      el("thead", {}, el("tr", {}, el("td"), ...orders.map(([name]) => el("th", { scope: "col", text: name })))));
    const body = el("tbody");
    verdicts.forEach((name, i) => {
      const line = el("tr", { class: i === label ? "truth" : null },
        el("th", { scope: "row" }, badge(i, name), i === label ? el("span", { class: "sr", text: " the human's verdict" }) : null));
      for (const [, p] of orders) {
        const bar = el("span", { class: "seg v" + i });
        bar.style.width = p[i] * 100 + "%";
        line.append(el("td", {}, el("span", { class: "bar", "aria-hidden": "true" }, bar), el("span", { class: "figure", text: percent(p[i]) })));
      }
      body.append(line);
    });
    table.append(body);
    return el("div", { class: "verdicts" }, said, table);
  }

  function facts(row, texts) {
    const [, a, b] = texts.characters;
    const entries = [
      ["Loss", columns.loss[row] === null ? null : (columns.loss[row] / scale).toFixed(3) + " nats"],
      ["Swap", { "-1": null, 0: "same verdict in both orders", 1: "the verdict flips" }[columns.flips[row]]],
      ["Length", `A ${number(a)}, B ${number(b)} characters (A ${a >= b ? "+" : "−"}${number(Math.abs(a - b))})`],
      ["Turns", columns.turns[row] > 1 ? number(columns.turns[row]) : null],
      ["Language", names.language[columns.language[row]]],
      ["Source", names.source[columns.source[row]]],
      ["Verdict mass", texts.mass === null ? null : percent(texts.mass)],
    ];
    const list = el("dl", { class: "facts" });
    for (const [name, value] of entries) {
      if (value) list.append(el("div", {}, el("dt", { text: name }), el("dd", {}, isolated(value))));
    }
    const flags = bits(columns.flags[row]).map((bit) => index.flag_words[bit]);
    if (columns.cut[row]) flags.push("prompt cut to fit");
    for (const flag of flags) list.append(el("div", { class: "flag" }, el("dt", { class: "sr", text: "Flag" }), el("dd", { text: flag })));
    return list;
  }

  function said(who, model, text, className) {
    const head = el("h4", {}, who);
    if (model) head.append(" ", isolated(model, "model"));
    const body = el("div", { class: "text" });
    if (text === null) body.append(el("span", { class: "nothing", text: "null: the table has no text here" }));
    else if (text === undefined) body.append(el("span", { class: "nothing", text: "no such turn" }));
    else if (text === "") body.append(el("span", { class: "nothing", text: "empty text" }));
    else fill(body, text);
    return el("div", { class: "turn " + className }, head, body);
  }

  function conversation(row, texts) {
    const node = el("div", { class: "conversation" });
    const turns = Math.max(texts.prompt.length, texts.a.length, texts.b.length, 1);
    const best = columns.label[row];
    for (let turn = 0; turn < turns; turn++) {
      const which = turns > 1 ? ` ${turn + 1}` : "";
      node.append(said("Prompt" + which, "", texts.prompt[turn], "prompt"),
        el("div", { class: "pair" },
          said("A" + which, texts.models[0], texts.a[turn], "a" + (best === 0 ? " preferred" : "")),
          said("B" + which, texts.models[1], texts.b[turn], "b" + (best === 1 ? " preferred" : ""))));
    }
    return node;
  }

  /** Open the row that the address names. */
  function follow() {
    if (!location.hash.startsWith("#row=")) {
      if (opened >= 0 && (location.hash === "" || location.hash === "#rows")) close();
      return;
    }
    let id = location.hash.slice(5);
    try { id = decodeURIComponent(id); } catch { /* it stands as it is */ }
    const row = columns.id.indexOf(id);
    if (row < 0) {
      pane.replaceChildren(el("p", { class: "problem", role: "alert" }, "No row has the id ", isolated(id), "."));
      $("rows").scrollIntoView();
    } else if (row !== opened) {
      show(row);
      $("rows").scrollIntoView();
    }
  }

  // ---- search through all texts ------------------------------------------------------------------------------------

  let scan = 0; // the number of the search that runs; another number ends it

  function searching(on) {
    $("search-cancel").hidden = $("search-progress").hidden = !on;
    $("search-texts").hidden = on;
  }

  function stopSearch() {
    scan += 1;
    searching(false);
    $("search-note").textContent = "";
  }

  const holds = (texts, wanted) =>
    [texts.prompt, texts.a, texts.b, texts.models].some((turns) => turns.some((turn) => turn && turn.toLowerCase().includes(wanted)));

  async function searchTexts() {
    const wanted = needle();
    stopSearch();
    if (!wanted) return;
    const mine = scan;
    found = new Set();
    searching(true);
    for (let chunk = 0; chunk < starts.length; chunk++) {
      const rows = await (chunks.get(chunk) || decode(chunk));
      if (scan !== mine) return;
      rows.forEach((texts, i) => { if (holds(texts, wanted)) found.add(starts[chunk] + i); });
      $("search-progress").value = (chunk + 1) / starts.length;
      if (chunk % 8 === 7) {
        refresh();
        await new Promise((resume) => setTimeout(resume)); // keys and clicks in between
        if (scan !== mine) return;
      }
    }
    searching(false);
    refresh();
    $("search-note").textContent = `all texts searched, ${number(found.size)} ${found.size === 1 ? "row has" : "rows have"} it`;
  }

  // ---- keys --------------------------------------------------------------------------------------------------------

  const help = $("help");

  function step(by) {
    go(place < 0 ? (by > 0 ? 0 : shown.length - 1) : place + by);
  }

  function escape(typing) {
    if (!$("search-cancel").hidden) stopSearch();
    else if (typing) document.activeElement.blur();
    else close();
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const target = event.target;
    const typing = target.matches("input, select, textarea");
    if (event.key === "Escape") return escape(typing);
    if (typing) return;
    const page = Math.max(Math.floor(list.clientHeight / rowHeight()) - 1, 1);
    const inList = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const anywhere = {
      j: () => step(1), k: () => step(-1), "?": () => help.showModal(),
      "/": () => { $("search").focus(); $("search").select(); },
    };
    if (target === list && event.key in inList) {
      const by = inList[event.key];
      if (Number.isFinite(by)) step(by);
      else go(by < 0 ? 0 : shown.length - 1);
    } else if (target === list && event.key === "Enter") {
      pane.focus();
    } else if ($("letters").checked && event.key in anywhere) {
      anywhere[event.key]();
    } else return;
    event.preventDefault();
  }

  function clear() {
    stopSearch();
    found = null;
    $("search").value = "";
    for (const chip of $("quick").children) chip.setAttribute("aria-pressed", "false");
    for (const facet of FACETS) {
      facet.chosen = "";
      if (facet.select) facet.select.value = "";
    }
    refresh();
  }

  // ---- start -------------------------------------------------------------------------------------------------------

  buildQuick();
  buildFacets();
  $("loading").remove();
  $("browser").hidden = false;
  list.addEventListener("scroll", scrolled, { passive: true });
  window.addEventListener("resize", () => { spacer.style.height = shown.length * rowHeight() + "px"; draw(); });
  window.addEventListener("hashchange", follow);
  document.addEventListener("keydown", onKey);
  $("order").addEventListener("change", refresh);
  $("clear").addEventListener("click", clear);
  $("search").addEventListener("input", () => { stopSearch(); found = null; refresh(); });
  $("search-form").addEventListener("submit", (event) => { event.preventDefault(); searchTexts(); });
  $("search-cancel").addEventListener("click", stopSearch);
  $("help-button").addEventListener("click", () => help.showModal());
  $("help-close").addEventListener("click", () => help.close());
  refresh();
  follow();
  document.documentElement.dataset.ready = "yes";
})();
