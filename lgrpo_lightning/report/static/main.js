// Builds the page.

buildTop();
buildCurves();
buildTrees();
buildCompletions();
buildSettings();
