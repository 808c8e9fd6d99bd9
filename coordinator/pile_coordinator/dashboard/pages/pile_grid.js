// All piles as small cells, each with its state. Gets every pile once, and then only those that changed: at most one batch is
// under way, and `drawn` asks for the next when the browser has painted it, so that a slow browser gets fewer and larger batches.
export default {
  template: `<div>
    <div class="pc-keys" role="group">
      <button v-for="(state, n) in states" :key="state.name" v-show="counts[n]" :class="'pc-s-' + state.name"
        :aria-pressed="only === n" @click="pick(n)"><i aria-hidden="true">{{ state.sign }}</i>{{ state.word }} {{ counts[n] }}</button>
    </div>
    <div class="pc-grid" ref="grid" @mouseover="explain"></div>
    <p class="pc-note" v-show="hidden">{{ more }} {{ hidden }}</p>
  </div>`,
  props: { states: Array, start: Array, height: Number, zone: String, owner: String, search: String, most: Number, more: String },
  emits: ["drawn"],
  data() {
    return { counts: this.states.map(() => 0), only: null, hidden: 0 };
  },
  mounted() {
    this.piles = []; // [id, owner, zone, state, cell or null]; not reactive: Vue would look at a thousand of them each second
    for (const pile of this.start) this.add(pile);
    this.layout();
    this.tell(this.height);
  },
  watch: {
    zone() { this.layout(); },
    owner() { this.layout(); },
    search() { this.layout(); },
  },
  methods: {
    add(pile) {
      const cell = document.createElement("a");
      cell.href = "/piles/" + encodeURIComponent(pile[0]);
      cell.append(document.createElement("i"), document.createElement("span"));
      cell.lastChild.textContent = pile[0];
      cell.dataset.n = this.piles.length;
      this.piles.push([...pile, cell]);
      this.paint(this.piles[this.piles.length - 1]);
    },
    paint(pile) {
      const state = this.states[pile[3]], cell = pile[4];
      cell.className = "pc-s-" + state.name;
      cell.firstChild.textContent = state.sign;
      cell.setAttribute("aria-label", `${pile[0]}: ${state.word}`);
    },
    explain(event) {
      // Only where somebody points: a thousand titles each second would be the most of the work.
      const cell = event.target.closest("a");
      if (!cell) return;
      const [id, owner, zone, state] = this.piles[cell.dataset.n];
      cell.title = `${id} · ${zone} · ${owner} · ${this.states[state].word}`;
    },
    matches(pile) {
      return (
        (this.only === null || pile[3] === this.only) && (!this.zone || pile[2] === this.zone) &&
        (!this.owner || pile[1] === this.owner) && (!this.search || pile[0].includes(this.search))
      );
    },
    layout() {
      const shown = this.piles.filter((pile) => this.matches(pile));
      this.hidden = Math.max(0, shown.length - this.most);
      this.$refs.grid.replaceChildren(...shown.slice(0, this.most).map((pile) => pile[4]));
      this.count();
    },
    count() {
      const counts = this.states.map(() => 0);
      for (const pile of this.piles) counts[pile[3]]++;
      this.counts = counts;
    },
    pick(n) {
      this.only = this.only === n ? null : n;
      this.layout();
    },
    apply(height, changed, added) {
      for (const pile of added) this.add(pile);
      for (const [n, state] of changed) {
        this.piles[n][3] = state;
        this.paint(this.piles[n]);
      }
      if (added.length || (changed.length && this.only !== null)) this.layout();
      else if (changed.length) this.count();
      this.tell(height);
    },
    tell(height) {
      // A hidden tab paints nothing and calls no animation frame; it must not stop the stream, only slow it.
      const done = () => {
        this.$el.dataset.height = height;
        this.$emit("drawn", height);
      };
      if (document.hidden) setTimeout(done, 1000);
      else requestAnimationFrame(() => setTimeout(done, 0));
    },
  },
};
