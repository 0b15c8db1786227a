// What scrolls sideways can be reached by the keyboard, the switches that the theme hides cannot, and every row of copy
// buttons has a name of its own.
function reachable() {
  document.querySelectorAll(".md-code__nav").forEach((row, index) => {
    row.setAttribute("aria-label", `Code block ${index + 1}`)
  })
  for (const hidden of document.querySelectorAll("input[aria-hidden=true]")) hidden.tabIndex = -1
  for (const region of document.querySelectorAll("pre > code, .equation, .md-typeset__scrollwrap")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0
    else region.removeAttribute("tabindex")
  }
}

new MutationObserver(reachable).observe(document.body, { childList: true, subtree: true })
addEventListener("resize", reachable)
addEventListener("load", reachable)
