// A browser started with LANG=C calls its language "en-US@posix", at which uPlot would fail to load.
"use strict";

try {
  new Intl.NumberFormat(navigator.language);
} catch (error) {
  Object.defineProperty(navigator, "language", { value: "en-US" });
}
