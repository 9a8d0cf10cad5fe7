package reachability

import (
	"slices"
	"testing"
	"time"
)

func TestDistanceClasses(t *testing.T) {
	const ms = time.Millisecond
	repeat := func(n int, d time.Duration) []time.Duration { return slices.Repeat([]time.Duration{d}, n) }
	for name, c := range map[string]struct {
		took []time.Duration
		// want is the class after the last one; -1 is not measured.
		want int
	}{
		"nothing":                           {nil, -1},
		"two are not enough":                {repeat(2, 200*ms), -1},
		"the nearest":                       {repeat(3, 9*ms), 0},
		"on a border it is the higher":      {repeat(3, 10*ms), 1},
		"within a continent":                {repeat(3, 119*ms), 2},
		"the furthest":                      {repeat(3, 120*ms), 3},
		"the shortest of the first counts":  {[]time.Duration{900 * ms, 5 * ms, 700 * ms}, 0},
		"one slow connect":                  {append(repeat(5, 5*ms), 900*ms), 0},
		"slow, but not for long enough":     {append(repeat(5, 5*ms), repeat(6, 100*ms)...), 0},
		"slow for five, and three in a row": {append(repeat(5, 5*ms), repeat(7, 100*ms)...), 2},
		"just beyond a border":              {append(repeat(5, 9*ms), repeat(50, 12*ms)...), 0},
		"a quarter beyond":                  {append(repeat(5, 9*ms), repeat(7, 12500*time.Microsecond)...), 1},
		"just below a border":               {append(repeat(5, 42*ms), repeat(50, 31*ms)...), 2},
		"a quarter below":                   {append(repeat(5, 42*ms), repeat(3, 30*ms)...), 1},
		"nearer, two classes at once":       {append(repeat(5, 150*ms), repeat(3, 20*ms)...), 1},
		"nearer twice only":                 {append(repeat(5, 150*ms), repeat(2, 20*ms)...), 3},
		"up and down do not add up":         {append(repeat(5, 20*ms), 100*ms, 100*ms, 100*ms, 100*ms, 100*ms, 100*ms, 1*ms, 1*ms), 1},
	} {
		t.Run(name, func(t *testing.T) {
			var d distance
			class, changes := -1, 0
			for _, took := range c.took {
				changed := d.add(took)
				if changed {
					changes++
				}
				if was := class; d.measured() {
					if class = d.class; changed != (was != class) {
						t.Errorf("says changed: %v, and goes from %d to %d", changed, was, class)
					}
				}
			}
			if class != c.want || changes > 2 {
				t.Errorf("class %d after %d changes, want %d", class, changes, c.want)
			}
		})
	}
}
