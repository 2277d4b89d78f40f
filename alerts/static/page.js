"use strict";
// Keys for triage. Without this script every action is still there as a link or a button.
(() => {
  const table = document.getElementById("queue"), act = document.getElementById("act"), help = document.getElementById("help");
  const rows = table ? [...table.tBodies[0].rows] : [];
  let at = -1;
  const choose = (to) => {
    if (!rows.length) return;
    at = Math.max(0, Math.min(rows.length - 1, to));
    rows.forEach((row, n) => row.setAttribute("aria-selected", n === at));
    const link = rows[at].querySelector("a.open");
    link.focus({ preventScroll: true });
    rows[at].scrollIntoView({ block: "nearest" });
  };
  const send = (id, what, kind) => {
    if (!act || !id) return;
    const next = rows[at + 1] || rows[at - 1];
    act.action = `/incidents/${id}/${what}`;
    act.elements.kind.value = kind;
    act.elements.at.value = next && kind !== "acknowledge" ? next.dataset.id : id;
    act.elements.query.value = location.search.slice(1);
    act.submit();
  };
  if (rows.length) {
    const held = rows.findIndex((row) => row.dataset.id === table.dataset.at);
    if (held >= 0) choose(held);
  }
  const press = (id) => { const button = document.getElementById(id); if (button) button.click(); };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (help && help.open) return;
    const id = at >= 0 ? rows[at].dataset.id : "";
    const keys = table ? {
      j: () => choose(at + 1), k: () => choose(at - 1), o: () => id && (location.href = `/incidents/${id}`),
      c: () => send(id, "answer", "confirm"), d: () => send(id, "answer", "dismiss"), a: () => send(id, "answer", "acknowledge"),
      u: () => send(table.dataset.last || id, "undo", ""),
    } : { c: () => press("confirm"), d: () => press("dismiss"), a: () => press("acknowledge"), u: () => press("undo"), q: () => { location.href = "/"; } };
    keys["/"] = () => { const search = document.getElementById("search"); if (search) search.focus(); else location.href = "/"; };
    keys["?"] = () => help && help.showModal();
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  });
})();
