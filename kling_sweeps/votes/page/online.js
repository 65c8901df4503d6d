// Where votes go: to the command on this machine, which answers when they are on its disk.
async function ask(what, given) {
  let response;
  try {
    response = await fetch(what, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(given) });
  } catch {
    throw new Error("The command that serves this page has ended. Start it anew and open its address: nothing that was counted is lost.");
  }
  if (!response.ok) throw new Error(`This was not counted: ${await response.text()}`);
  return response.json();
}

const desk = {
  isFile: false,
  then: "You can close this page.",
  state: (rater) => ask("state", { rater }),
  vote: (rater, pair, answer) => ask("vote", { rater, pair, answer }),
  undo: (rater, vote) => ask("undo", { rater, vote }),
  async video(side) {
    const response = await fetch(`video/${side.id}`);
    if (!response.ok) throw new Error(`A video can't be shown: ${await response.text()}`);
    return response.blob();
  },
};
