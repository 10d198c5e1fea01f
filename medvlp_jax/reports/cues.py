"""Words that change what a sentence says about its findings (data only; notation of `lexicon`, read by `scopes`).

Forward cues act on what follows, `_post` cues on what comes before, always within a clause. A longer phrase wins over a
shorter one, so that "no change in" or "not only" are no negations. "kind:value" gives the items of a kind a value.
A number is the word `#`.
"""

CUES = {
    # Absent: all that follows, until the clause turns.
    "neg": ["no", "without", "denies|deny|denied", "negative for", "free of|from", "clear of", "otherwise clear of",
            "nor", "rather than", "instead of",
            "not have|show|demonstrate|reveal|contain|exhibit|see|identify|suggest|find|detect|appreciate|visualize",
            "absent is|are", "no evidence of|for", "no sign of", "devoid of", "never",
            "not appear|seem to be|represent", "w / o", "w / out", "neg for", "nil", "fail|failed to show|demonstrate|"
            "reveal|identify|confirm", "nothing to suggest|indicate", "argue|argued|arguing against"],
    "neg:neither": ["neither"],
    # ... and what came before, if nothing follows ("are all absent").
    "neg:absent": ["absent"],
    "neg:absence": ["absence of", "lack of"],
    # Absent: the next word only ("the heart is not enlarged").
    "neg_next": ["not", "no longer"],
    # Absent: what came before ("a nodule is not identified", "pneumothorax: none").
    "neg_post": ["not definitely|definitively|clearly|currently|readily|convincingly|___? seen|identified|present|visualized|"
                 "visualised|evident|demonstrated|appreciated|noted|detected|found|apparent|observed|visible|shown|"
                 "suspected|confirmed|reproduced|recognized|discernible", "ruled out", "is|are|was|were|been excluded", "none",
                 "none seen|identified|present", "is|are absent", "not appreciable", "is|was incorrect|erroneous",
                 "is|was in error",
                 "can|cannot|could not? be seen|identified|visualized|appreciated|detected|found|demonstrated",
                 "neither seen|identified|visualized|present|evident|noted nor"],
    # What was taken for a finding is none ("the pneumothorax described is a skin fold").
    "neg_post:mimic": ["is|are|was|were|represent|represented|representing|be a? skin fold",
                       "is|are|was|were|represent|represented|representing|be a? nipple shadow",
                       "is|are|was|were artifactual|spurious|artifact"],
    # Absent, after a colon only ("Pneumothorax: negative").
    "denial": ["negative", "neg", "n"],
    # Gone since the last study: what came before ("has resolved"), what follows ("resolution of").
    "gone_post": ["resolved", "cleared", "disappeared", "removed", "extubated", "gone", "vanished", "resorbed", "reabsorbed",
                  "pulled", "taken out|down", "discontinued", "re expanded",
                  "been? replaced by|with", "no longer be? clearly|definitely? seen|present|visualized|"
                  "visualised|identified|evident|appreciated|apparent|visible|noted|demonstrated|there",
                  "no longer in place|situ|position", "explanted"],
    "gone_post:removal": ["removal"],
    # ... of devices.
    "gone_post:out": ["is|are|was|were|been|come? out"],
    "gone": ["complete|interval? resolution of|:", "complete|interval? clearing of|:",
             "complete|interval? disappearance of", "interval? removal of", "cleared of",
             "no longer have|has|show|contain"],
    # Uncertain: the next finding and what is coordinated with it; what came before, if nothing follows.
    "unc:adverb": ["possible|possibly|probable|probably|likely|questionable|questionably", "prob|poss|susp"],
    "unc:question": ["?"],
    "unc": ["unlikely|suspected|potential|potentially|presumed|presumably|perhaps|maybe|equivocal|suspect|"
            "question|questioned|suggested|considered|favor|"
            "favored|favoring|either|whether|if|uncertain|unclear|doubt|doubtful|query|queried|conceivably|conceivable",
            "whether|if there is|are|was|were|may|might", "cannot|not say|state|confirm that? there is|are no",
            "not sure|certain|confident that? there is|are no",
            "suspicious|suspicion|concern|concerning|worrisome|worry for|of|about", "more|most|less|very likely",
            "rule out", "r / o", "r o", "to exclude", "should be considered", "hint of", "exclusion of",
            "it is|was felt|thought|believed",
            "history|symptom|sign of",
            "correlate|correlation", "h / o", "hx of", "evaluate|evaluation|assess|assessment for",
            "believed|thought|felt|considered to represent|be", "low|high suspicion for|of", "borderline",
            "borderline for", "risk for|of"],
    # ... after a negation too ("the absence of fever does not exclude pneumonia").
    "unc:open": ["cannot|not completely|entirely|definitively|fully|reliably? exclude|excluded", "can|ca not rule out?",
                 "cannot|not rule out", "cannot|not r / o", "unable|inability|not|insufficient able|sufficient? to exclude",
                 "unable|inability to rule out", "difficult|hard|impossible to exclude", "not possible to exclude",
                 "difficult|hard|impossible to rule out", "not possible to rule out",
                 "it is|was|remain|would|may? be? difficult|hard|impossible to exclude",
                 "it is|was|remain|would|may? be? difficult|hard|impossible to rule out",
                 "it is|was|would|may? be? not be? possible to exclude",
                 "it is|was|would|may? be? not be? possible to rule out"],
    # Uncertain: all that follows in the clause ("may represent atelectasis, aspiration or pneumonia").
    "unc_clause": ["may|might|could", "may|might|could|can represent|reflect|be|indicate|suggest|relate|have",
                   "suggest", "suggestive of", "suggesting", "suggestion of",
                   "differential diagnosis? includes|include|including|would|is|of", "ddx :?", "differential diagnosis? :",
                   "differential diagnosis? consideration? would? include|are|is",
                   "differential? diagnostic? consideration would? include",
                   "raise|raising the? possibility|question|concern|suspicion of|for", "possibility of", "to suggest",
                   "unlikely to represent|be", "consider", "can be seen with|in"],
    # ... and what came before ("apparent cardiomegaly may be projectional").
    "unc_clause:artifact": ["may|might|could be projectional|artifactual|positional|technical|spurious",
                            "may|might|could be|represent|reflect a? skin fold",
                            "more|most? likely|probably|possibly|presumably is|are|be|represent|reflect? a? skin fold",
                            "thought|felt|believed|favored|suspected to be|represent|reflect a? skin fold"],
    "unc_post": ["cannot|not be? entirely|completely|definitively|definitely|fully|reliably|confidently? excluded",
                 "can not be entirely|completely|definitively|fully? excluded",
                 "cannot|not be ruled out",
                 "cannot|not entirely|completely|definitively|definitely|fully|reliably|confidently be excluded",
                 "is|are|be|remain difficult|hard|impossible to exclude",
                 "is|are|be not possible to exclude", "is|are|be|remain difficult|hard|impossible to rule out",
                 "is|are|be not possible to rule out", "cannot be confirmed|assessed|evaluated|determined", "not ruled out",
                 "difficult to assess|evaluate|confirm",
                 "not well|fully|optimally|adequately seen|visualized|visualised|evaluated|assessed|demonstrated|"
                 "delineated", "in|on the differential", "could|may|must|can be considered", "cannot be assured|ascertained",
                 "is|are|be|remain also? a|an|the|another? strong|leading|main|primary|distinct|differential|diagnostic|"
                 "favored? consideration|possibility|concern", "is|remain of concern",
                 "should|must be excluded", "need to be excluded", "should|must be ruled out", "not unlikely",
                 "difficult to detect|see|appreciate|identify", "not assessable|evaluable|confirmed or excluded",
                 "may|might|could be present|there",
                 "may|might|could be radiographically? occult|missed|inapparent|overlooked",
                 "may|might|could not be", "suboptimally seen|evaluated"],
    # Uncertain: the finding right before it; the next one, if there is none ("small, if any, effusion").
    "if_any": ["if any|present ,?", "if at all ,?"],
    # Uncertain on both sides.
    "versus": ["versus", "vs", "v", "is|are? favored|preferred over", "more|less likely than"],
    # Ends every scope.
    "stop:semicolon": [";"],
    "stop": ["but", "period", "however", "although", "though", "except for?", "save for", "aside|apart from",
             "other than", "yet", "while", "with the exception of", "whereas", "despite", "besides", "nevertheless",
             "additionally", "after", "following", "none on|in|at the? left|right|other|remaining side?|lung?",
             "none left|right"],
    # Starts an affirmed statement.
    "restart": ["there is|are|was|were", "there has|have been"],
    # The findings on both sides are one thing: they share a place.
    "link": ["consistent|compatible with", "represent", "representing", "reflect", "reflecting", "in keeping with",
             "due|secondary|related|relate to", "indicative of", "indicate", "indicating", "characteristic of", "c / w",
             "d / t"],
    # A change: denied, it leaves what changes ("no convincing decrease in the effusion").
    "change": ["increase|decrease|diminution|reduction|regression|growth|improvement|worsening|progression|shrinkage|"
               "lessening|advancement|abatement"],
    "change:in": ["change|alteration|difference|variation"],
    "changed": ["grown|moved|migrated|changed|worsened|progressed|diminished|shrunk"],
    # Begins what the next verb or colon tells ("the differential for the opacity would include").
    "differential": ["differential diagnosis|diagnostic? consideration? for|of"],
    # What is looked for may be absent or present: nothing is said.
    "sought": ["to look|search|screen|survey for"],
    "nothing:change": ["no|without interval|significant|substantial|appreciable|definite|further|complete? resolution|"
                       "clearing|disappearance|removal of",
                       "no|without significant|interval|appreciable|substantial|relevant|new? interval? change|increase|"
                       "decrease|difference|improvement|progression|worsening in|of|from?"],
    # Contains a cue but is none.
    "nothing": ["none suspicious|concerning|worrisome|new|enlarging|larger", "of uncertain|unclear|indeterminate|unknown "
                "etiology|significance|chronicity|age|cause", "pulled back", "pulled out of position",
                "is|are|was|were|been? out of",
                "not gone|vanished|disappeared|removed", "not gone away",
                "not only|as", "not significantly? changed|different|increased|decreased|improved|progressed|worse",
                "not seen|present on|in the? prior|previous|comparison|initial|earlier|old|first|admission|outside|field",
                "not seen|present previously|before", "may|might|could account for", "may|might|could explain",
                "partial|partially|incompletely|incomplete|near|nearly|almost|largely|mostly|partly "
                "complete|completely? resolved|gone|resolution|cleared|clearing of?",
                "not yet? completely|fully|entirely? resolved|cleared", "not well? included|imaged", "no doubt",
                "not limited to",
                "allowing for", "not available",
                "no prior|previous|comparison|old study|exam|film|radiograph|examination?", "not necessarily"],
    "unsure": ["with or without", "+/-"],
    "and": ["and", "as well as", "/", "&", "plus", "along with"],
    "or": ["or", "and / or"],
    "comma": [",", "comma"],
    "colon": [":"],
    "with": ["with", "w /"],
    "verb": ["is|are|was|were|be|been|has|have|appear|remain|show|demonstrate|reveal|"
             "contain|exhibit|look|continue|persist|appearing|include|accentuate|"
             "exaggerate|limit"],
    # These close a list as well ("no effusion, edema, mass is seen").
    "verb:closing": ["seen|noted|identified|present|demonstrated|visualized|evident"],
    "prep:of": ["of"],
    "prep": ["in|at|within|along|involving|throughout|near|to|into|on|affecting|beneath|under|below|above|toward|"
             "through|around|for|from|by", "adjacent to"],
    # A projection: "nodule overlying the left 5th rib" is not in the rib.
    "over": ["over|overlying|overlie|superimposed|between|behind|overlapping|across|beyond",
             "projecting|project|projected|superimposed over|on|in|at|through?"],
    # After a comma or "and" these begin something that is there ("no effusion, mild edema").
    "affirm": ["mild|mildly|moderate|moderately|minimal|minimally|chronic|patchy|scattered|"
               "extensive|severe|increased|increasing|worsening|multiple|trace|tiny|slight|slightly|marked|diffuse|"
               "also|improved|improving|status|some|overall|small|new|newly|mod|min|linear|streaky|"
               "bandlike|platelike|discoid|subsegmental|several|few|two|three|four|five|hazy|faint|dense|rounded|bulky|"
               "decreased|decreasing|enlarging|smaller|larger|developing|dependent|layering|loculated|compressive",
               "# mm|cm", "# x # mm|cm", "# by # mm|cm"],
    "affirm:only": ["only|just"],
    "affirm:article": ["the|a|an"],
    # ... even where an "or" follows ("no edema, unchanged scarring or atelectasis").
    "affirm:still": ["unchanged|stable|previously|persistent|persisting|again|known|old|healed|still|his|her|this|these"],
    # ... unless the list goes on ("no consolidation, large effusion, pneumothorax").
    "affirm:large": ["large|sizable|sizeable|massive"],
    "otherwise": ["otherwise", "o / w", "otherwise clear", "o / w clear"],
    # Stands for the finding before ("that on the left").
    "pronoun": ["that|those|one"],
    # "The lungs are otherwise clear" does not deny what was named before.
    "rest": ["remaining|remainder|rest|elsewhere|portion", "otherwise clear of"],
}
